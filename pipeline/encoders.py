"""BERT encoders run on the texts that the cache of embeddings lacks."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from pipeline import embeddings, encoder_files
from pipeline.bundles import EncoderRetriever
from pipeline.core import encoder
from pipeline.device import device
from pipeline.errors import ArtifactError, NumericError

# N texts, B texts of a batch, D dimensions of an embedding

TEXTS_PER_SLAB = 8192  # bounds memory: token ids of so many texts are held at once
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}


class Embedded(NamedTuple):
    """Embeddings of texts, in the order they were asked for."""

    embedding_ND: NDArray[np.float32]
    num_tokens_N: NDArray[np.int32]
    """Before the cut, special tokens included."""
    num_encoded: int
    """Texts that went through the encoder now."""
    num_cached: int
    """Texts that stood in the cache."""


def dtype(on: torch.device) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32: emulated, bfloat16 is far slower."""
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able: dict[str, Any] = dict(torch.cpu.get_capabilities())
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class Embedder:
    """An encoder behind the cache: a text is encoded once, ever; the network is loaded at the first miss."""

    def __init__(self, settings: EncoderRetriever, cache: embeddings.Cache) -> None:
        """Raises what `encoder_files.find` and `device` raise."""
        self.checkpoint = encoder_files.find(settings)
        self._settings, self._cache = settings, cache
        self._device = device()
        self.dtype = dtype(self._device)
        made_by = (self.checkpoint.files_sha256, settings.max_tokens, settings.pooling, self.dtype)
        self._name = " ".join(map(str, made_by))

    def embed(self, texts: Sequence[str], what: str) -> Embedded:
        """Embeddings of distinct texts, each cut to retriever.max_tokens; `what` names them on the progress bar.

        Raises:
            NumericError: an embedding is NaN or infinite; it is not kept.
        """
        keys = [embeddings.key(self._name, text) for text in texts]
        entries = self._cache.get(keys)
        num_cached = len(entries)
        missing = [place for place, key in enumerate(keys) if key not in entries]
        num_encoded = 0
        with tqdm(total=len(missing), desc=f"encode {what}", unit=f" {what}", disable=None if missing else True) as bar:
            for start in range(0, len(missing), TEXTS_PER_SLAB):
                slab = missing[start : start + TEXTS_PER_SLAB]
                for places, new in self._encode([texts[place] for place in slab]):
                    made = {keys[slab[place]]: entry for place, entry in zip(places, new, strict=True)}
                    self._cache.put(made)
                    entries |= made
                    num_encoded += len(new)
                    bar.update(len(new))
        found = [entries[key] for key in keys]
        return Embedded(
            np.stack([entry.embedding_D for entry in found]),
            np.array([entry.num_tokens for entry in found], dtype=np.int32),
            num_encoded,
            num_cached,
        )

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[embeddings.Entry]]]:
        network, tokenizer = self._loaded
        ids = encoder.tokenize(tokenizer, texts)
        for places, embedding_BD in encoder.embed_all(
            network,
            ids,
            pad_id=tokenizer.pad_token_id,
            pooling=self._settings.pooling,
            max_tokens=self._settings.max_tokens,
            batch_tokens=BATCH_TOKENS[self._device.type],
        ):
            if not embedding_BD.isfinite().all():
                raise NumericError(
                    f"retriever.source {self.checkpoint.source!r}: an embedding is NaN or infinite, among those of "
                    f"{len(places)} texts like {texts[places[0]][:60]!r}; restore the weights, or set FOCUS_DEVICE=cpu"
                )
            yield (
                places,
                [
                    embeddings.Entry(len(ids[place]), row)
                    for place, row in zip(places, embedding_BD.numpy(), strict=True)
                ],
            )

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        return load(self.checkpoint.folder, self._device, self.dtype)


def load(folder: Path, on: torch.device, number_format: torch.dtype) -> tuple[Any, Any]:
    """Network (no pooler, evaluation mode) and tokenizer of a checked folder.

    Raises:
        ArtifactError: a file is broken, or weights are missing.
    """
    # Seconds to import, and not needed when the cache has every text.
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    quiet: Any = logging  # its functions carry no types
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        network, report = AutoModel.from_pretrained(
            folder,
            add_pooling_layer=False,
            attn_implementation="sdpa",
            dtype=number_format,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers, tokenizers and safetensors raise a dozen kinds, some of them bare
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{folder}: cannot be loaded as a BERT encoder ({reason}); restore its files") from None
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ArtifactError(
            f"{folder / encoder_files.WEIGHTS}: {len(missing)} weights missing, first {missing[0]}; restore the file"
        )
    return network.to(on).eval(), tokenizer
