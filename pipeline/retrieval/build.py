"""From the retriever's settings to a scorer for one collection and its questions."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from pipeline.common import files
from pipeline.retrieval import embedding_cache, retrievers
from pipeline.runtime.settings import Bm25Retriever, EncoderRetriever, FusionRetriever, Retriever


@dataclass(frozen=True)
class Built:
    """A scorer, and what is to be told about how it was made."""

    scorer: retrievers.CollectionScorer | retrievers.ControlScorer
    identity: dict[str, Any] = field(default_factory=dict)
    """Of an encoder: sha256 of the weights, number format."""
    encoder: dict[str, Any] | None = None
    """encodes_per_unique_chunk: chunk texts that a run with an empty cache puts through the encoder, over unique
    chunks; truncated_chunks: share of the unique chunks that are cut."""
    words: str = ""
    """For the summary line."""


def build(
    retriever: Retriever, texts: Sequence[str], questions: Sequence[str], engine: Literal["local", "ray"] = "local"
) -> Built:
    """A scorer for distinct chunk texts and distinct questions; an encoder embeds what the cache lacks, on `engine`.

    Raises:
        ArtifactError, ConfigError, NumericError, ResourceError: as the encoder's files, its device and the cache do.
    """
    if isinstance(retriever, FusionRetriever):
        dense, encoder = _build_encoder(retriever, texts, questions, engine)
        bm25 = retrievers.Bm25Scorer(texts, retriever.k1, retriever.b)
        return replace(encoder, scorer=retrievers.FusionScorer([dense, bm25], retriever.rank_constant))
    if isinstance(retriever, EncoderRetriever):
        return _build_encoder(retriever, texts, questions, engine)[1]
    if isinstance(retriever, Bm25Retriever):
        return Built(retrievers.Bm25Scorer(texts, retriever.k1, retriever.b))
    return Built(retrievers.ControlScorer(retriever.kind, retriever.seed))


def _build_encoder(
    retriever: EncoderRetriever, texts: Sequence[str], questions: Sequence[str], engine: Literal["local", "ray"]
) -> tuple[retrievers.DenseScorer, Built]:
    # Here, because torch takes seconds to import, and BM25 and the controls do without.
    from pipeline.retrieval import embed

    with closing(embedding_cache.Cache(files.cache_folder() / embedding_cache.FILE)) as cache:
        embedder = embed.Embedder(retriever, cache, engine)
        asked = embedder.embed(questions, "questions")
        read = embedder.embed(texts, "chunks")
    number_format = str(embedder.dtype).removeprefix("torch.")
    scorer = retrievers.DenseScorer(questions, asked.embedding_ND, read.embedding_ND, retriever.similarity)
    return scorer, Built(
        scorer,
        {"sha256": embedder.checkpoint.sha256, "dtype": number_format},
        {
            "encodes_per_unique_chunk": (read.num_encoded + read.num_cached) / len(texts),
            "truncated_chunks": float((read.num_tokens_N > retriever.max_tokens).mean()),
        },
        f" ({number_format}, {read.num_encoded:,} encoded now, {read.num_cached:,} from the cache)",
    )
