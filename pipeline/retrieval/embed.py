"""Embeddings of texts from the cache; the encoder runs only on texts that the cache lacks."""

from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.common.device import device
from pipeline.retrieval import embedding_cache
from pipeline.retrieval.encoder import EncoderBatch, TextEncoder
from pipeline.runtime.errors import NumericError
from pipeline.runtime.settings import EncoderRetriever

# N texts, B texts of a batch, D dimensions of an embedding


class Embedded(NamedTuple):
    """Embeddings of texts, in the order of the texts."""

    embedding_ND: NDArray[np.float32]
    num_tokens_N: NDArray[np.int32]
    """Tokens before truncation, special tokens included."""
    num_encoded: int
    """Texts that went through the encoder now."""
    num_cached: int
    """Texts that were in the cache."""


class Embedder:
    """An encoder behind the cache: no text is encoded twice, and the network is loaded at the first miss."""

    def __init__(
        self, settings: EncoderRetriever, cache: embedding_cache.Cache, engine: Literal["local", "ray"] = "local"
    ) -> None:
        """Find the checkpoint. The `engine` encodes in this process or on the actors of a Ray cluster.

        Raises what `TextEncoder` and `device` raise.
        """
        self.encoder = TextEncoder(settings, device())
        self._cache, self._engine = cache, engine

    def embed(self, texts: Sequence[str], what: str) -> Embedded:
        """Embed distinct texts, each truncated to retriever.max_tokens; the progress bar calls them `what`.

        Raises:
            NumericError: an embedding is NaN or infinite; it is not cached.
            PipelineError: what `ray_encoder.embed_all` raises.
        """
        keys = [embedding_cache.key(self.encoder.name, text) for text in texts]
        entries = self._cache.get(keys)
        num_cached = len(entries)
        missing = [place for place, key in enumerate(keys) if key not in entries]
        with tqdm(total=len(missing), desc=f"encode {what}", unit=f" {what}", disable=None if missing else True) as bar:
            for batch, embedding_BD in self._encode([texts[place] for place in missing]):
                places = [missing[index] for index in batch.indices]
                if not np.isfinite(embedding_BD).all():
                    raise NumericError(
                        f"retriever.source {self.encoder.checkpoint.source!r}: an embedding is NaN or infinite, among "
                        f"those of {len(places)} texts like {texts[places[0]][:60]!r}; restore the weights, or set "
                        "FOCUS_DEVICE=cpu"
                    )
                made = map(embedding_cache.Entry, batch.lengths, embedding_BD)
                new = dict(zip([keys[place] for place in places], made, strict=True))
                self._cache.put(new)
                entries |= new
                bar.update(len(new))
        found = [entries[key] for key in keys]
        return Embedded(
            np.stack([entry.embedding_D for entry in found]),
            np.array([entry.num_tokens for entry in found], dtype=np.int32),
            len(missing),
            num_cached,
        )

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[EncoderBatch, NDArray[np.float32]]]:
        """Yield batches of the texts with embedding_BD, in any order."""
        if self._engine == "ray" and texts:
            from pipeline.retrieval import ray_encoder

            yield from ray_encoder.embed_all(self.encoder, texts)
        else:
            for batch in self.encoder.batches(texts):
                yield batch, self.encoder.embed(batch)
