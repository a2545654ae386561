"""Embeddings of texts from the cache; the encoder runs only on texts that the cache lacks."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.common.cluster import Engine
from pipeline.retrieval.embedding_cache import Cache, Entry, key
from pipeline.retrieval.encoder import TextEncoder, What
from pipeline.runtime.errors import NumericError

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


def embed(encoder: TextEncoder, cache: Cache, texts: Sequence[str], what: What, engine: Engine = "local") -> Embedded:
    """Embed distinct texts, each truncated to retriever.max_tokens.

    Raises:
        NumericError: an embedding is NaN or infinite; it is not cached.
        PipelineError: what `ray_encoder.embed_all` raises.
    """
    name = encoder.name(what)
    keys = [key(name, text) for text in texts]
    entries = cache.get(keys)
    num_cached = len(entries)
    missing = [place for place, name in enumerate(keys) if name not in entries]
    missing_texts = [texts[place] for place in missing]
    if engine == "ray" and missing:
        from pipeline.retrieval import ray_encoder

        encoded = ray_encoder.embed_all(encoder, missing_texts, what)
    else:
        encoded = ((batch, encoder.embed(batch)) for batch in encoder.batches(missing_texts, what))
    with tqdm(total=len(missing), desc=f"encode {what}", unit=f" {what}", disable=None if missing else True) as bar:
        for batch, embedding_BD in encoded:
            if not np.isfinite(embedding_BD).all():
                raise NumericError(
                    f"retriever.source {encoder.checkpoint.source!r}: an embedding is NaN or infinite, among those of "
                    f"{len(batch.indices)} texts like {missing_texts[batch.indices[0]][:60]!r}; restore the weights, "
                    "or set FOCUS_DEVICE=cpu"
                )
            made = map(Entry, batch.lengths, embedding_BD)
            new = dict(zip([keys[missing[index]] for index in batch.indices], made, strict=True))
            cache.put(new)
            entries |= new
            bar.update(len(new))
    found = [entries[name] for name in keys]
    return Embedded(
        np.stack([entry.embedding_D for entry in found]),
        np.array([entry.num_tokens for entry in found], dtype=np.int32),
        len(missing),
        num_cached,
    )
