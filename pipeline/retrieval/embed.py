"""Embeddings of texts from the cache; the encoder runs only on texts that the cache lacks."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline.common.device import device
from pipeline.retrieval import embedding_cache, encoder
from pipeline.runtime.errors import NumericError
from pipeline.runtime.settings import EncoderRetriever

# N texts, B texts of a batch, D dimensions of an embedding

TEXTS_PER_SLAB = 8192  # texts that are tokenized at a time: it bounds memory


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

        Raises what `encoder.find` and `device` raise.
        """
        self.checkpoint = encoder.find(settings)
        self._settings, self._cache, self._engine = settings, cache, engine
        self._device = device()
        self.dtype = encoder.number_format(self._device)
        made_by = (self.checkpoint.files_sha256, settings.max_tokens, settings.pooling, self.dtype)
        self._name = " ".join(map(str, made_by))

    def embed(self, texts: Sequence[str], what: str) -> Embedded:
        """Embed distinct texts, each truncated to retriever.max_tokens; the progress bar calls them `what`.

        Raises:
            NumericError: an embedding is NaN or infinite; it is not cached.
            PipelineError: what `ray_encoder.embed_all` raises.
        """
        keys = [embedding_cache.key(self._name, text) for text in texts]
        entries = self._cache.get(keys)
        num_cached = len(entries)
        missing = [place for place, key in enumerate(keys) if key not in entries]
        with tqdm(total=len(missing), desc=f"encode {what}", unit=f" {what}", disable=None if missing else True) as bar:
            for batch, embedding_BD in self._encode([texts[place] for place in missing]):
                places = [missing[index] for index in batch.indices]
                if not np.isfinite(embedding_BD).all():
                    raise NumericError(
                        f"retriever.source {self.checkpoint.source!r}: an embedding is NaN or infinite, among those of "
                        f"{len(places)} texts like {texts[places[0]][:60]!r}; restore the weights, or set "
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

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[encoder.EncoderBatch, NDArray[np.float32]]]:
        """Yield batches of the texts with embedding_BD, in any order."""
        if not texts:
            return
        pad_id, pooling = self._tokenizer.pad_token_id, self._settings.pooling
        if self._engine == "ray":
            from pipeline.retrieval import ray_encoder

            setup = ray_encoder.ActorSetup(self.checkpoint, self._device.type, self.dtype, pad_id, pooling)
            yield from ray_encoder.embed_all(self._batches(texts), setup)
        else:
            for batch in self._batches(texts):
                yield batch, encoder.embed(self._network, batch, pad_id=pad_id, pooling=pooling)

    def _batches(self, texts: Sequence[str]) -> Iterator[encoder.EncoderBatch]:
        batch_tokens = encoder.BATCH_TOKENS[self._device.type]
        for start in range(0, len(texts), TEXTS_PER_SLAB):
            ids = encoder.tokenize(self._tokenizer, texts[start : start + TEXTS_PER_SLAB])
            for batch in encoder.batches(ids, max_tokens=self._settings.max_tokens, batch_tokens=batch_tokens):
                yield batch._replace(indices=[start + index for index in batch.indices])

    @cached_property
    def _network(self) -> Any:
        return encoder.load_network(self.checkpoint.folder, self._device, self.dtype)

    @cached_property
    def _tokenizer(self) -> Any:
        return encoder.load_tokenizer(self.checkpoint.folder)
