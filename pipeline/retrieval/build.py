"""The retriever of a run, built from its settings for one corpus and its questions."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from pipeline.common import files
from pipeline.common.cluster import Engine
from pipeline.retrieval import embedding_cache, retrievers
from pipeline.runtime.settings import DenseRetriever, RetrieverSettings, SentenceTransformerRetriever


@dataclass(frozen=True)
class Built:
    """A scorer, and facts about its encoder for the reports; they are empty without an encoder."""

    scorer: retrievers.Scorer
    identity: dict[str, Any] = field(default_factory=dict)
    """sha256 of the weights, number format."""
    encoder: dict[str, Any] | None = None
    """encodes_per_unique_chunk: chunk texts that a run with an empty cache puts through the encoder, over unique
    chunks; truncated_chunks: share of the unique chunks that are truncated; truncated_questions: number of the
    questions that are."""
    summary: str = ""
    """For the stage's last line."""


def build(
    settings: RetrieverSettings,
    texts: Sequence[str],
    questions: Sequence[str],
    engine: Engine = "local",
) -> Built:
    """Build the scorer for distinct chunk texts and distinct questions; `engine` embeds the texts not in the cache.

    Raises:
        ArtifactError, ConfigError, NumericError, ResourceError: from the encoder's files, its device and the cache.
    """
    make_scorer = retrievers.SCORERS[settings.kind]
    if not isinstance(settings, DenseRetriever):
        return Built(make_scorer(settings, texts, None))
    # Here, because torch takes seconds to import, and the other retrievers do without.
    from pipeline.common.device import device
    from pipeline.retrieval.embed import embed
    from pipeline.retrieval.encoder import TextEncoder
    from pipeline.retrieval.sentence_encoder import SentenceEncoder

    if isinstance(settings, SentenceTransformerRetriever):
        encoder: TextEncoder = SentenceEncoder(settings, device())
    else:
        encoder = TextEncoder(settings, device())
    with closing(embedding_cache.Cache(files.cache_folder() / embedding_cache.FILE)) as cache:
        asked = embed(encoder, cache, questions, "questions", engine)
        chunks = embed(encoder, cache, texts, "chunks", engine)
    dense = retrievers.DenseScorer(questions, asked.embedding_ND, chunks.embedding_ND, settings.similarity)
    num_cut = int((asked.num_tokens_N > settings.max_tokens).sum())
    number_format = str(encoder.dtype).removeprefix("torch.")
    return Built(
        make_scorer(settings, texts, dense),
        {"sha256": encoder.checkpoint.sha256, "dtype": number_format},
        {
            "encodes_per_unique_chunk": (chunks.num_encoded + chunks.num_cached) / len(texts),
            "truncated_chunks": float((chunks.num_tokens_N > settings.max_tokens).mean()),
            "truncated_questions": num_cut,
        },
        f" ({number_format}, {chunks.num_encoded:,} encoded now, {chunks.num_cached:,} from the cache"
        + (f"; {num_cut:,} questions longer than {settings.max_tokens} tokens are cut)" if num_cut else ")"),
    )
