"""BERT encoders run on the texts that the cache of embeddings lacks."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from pipeline.common.device import device
from pipeline.retrieval import embedding_cache, encoder
from pipeline.runtime.errors import ArtifactError, ConfigError, NumericError
from pipeline.runtime.settings import EncoderRetriever

# N texts, B texts of a batch, D dimensions of an embedding

TEXTS_PER_SLAB = 8192  # bounds memory: token ids of so many texts are held at once
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}

Planned = tuple[encoder.Batch, list[list[int]]]
"""A batch, and the token ids of its texts."""


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

    def __init__(
        self, settings: EncoderRetriever, cache: embedding_cache.Cache, engine: Literal["local", "ray"] = "local"
    ) -> None:
        """`engine` says where texts are encoded: in this process, or on the actors of a Ray cluster.

        Raises what `encoder_files.find` and `device` raise.
        """
        self.checkpoint = encoder.find(settings)
        self._settings, self._cache, self._engine = settings, cache, engine
        self._device = device()
        self.dtype = dtype(self._device)
        made_by = (self.checkpoint.files_sha256, settings.max_tokens, settings.pooling, self.dtype)
        self._name = " ".join(map(str, made_by))

    def embed(self, texts: Sequence[str], what: str) -> Embedded:
        """Embeddings of distinct texts, each cut to retriever.max_tokens; `what` names them on the progress bar.

        Raises:
            NumericError: an embedding is NaN or infinite; it is not kept.
            PipelineError: what `ray_encoding.embed_all` raises.
        """
        keys = [embedding_cache.key(self._name, text) for text in texts]
        entries = self._cache.get(keys)
        num_cached = len(entries)
        missing = [place for place, key in enumerate(keys) if key not in entries]
        num_encoded = 0
        with tqdm(total=len(missing), desc=f"encode {what}", unit=f" {what}", disable=None if missing else True) as bar:
            for places, new in self._encode([texts[place] for place in missing]):
                made = {keys[missing[place]]: entry for place, entry in zip(places, new, strict=True)}
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

    def _encode(self, texts: Sequence[str]) -> Iterator[tuple[list[int], list[embedding_cache.Entry]]]:
        """Places in `texts` and their entries, batch by batch."""
        if not texts:
            return
        num_tokens_N = np.zeros(len(texts), dtype=np.int32)
        for places, embedding_BD in self._run(self._planned(texts, num_tokens_N)):
            if not embedding_BD.isfinite().all():
                raise NumericError(
                    f"retriever.source {self.checkpoint.source!r}: an embedding is NaN or infinite, among those of "
                    f"{len(places)} texts like {texts[places[0]][:60]!r}; restore the weights, or set FOCUS_DEVICE=cpu"
                )
            yield (
                places,
                [
                    embedding_cache.Entry(int(num_tokens_N[place]), row)
                    for place, row in zip(places, embedding_BD.numpy(), strict=True)
                ],
            )

    def _planned(self, texts: Sequence[str], num_tokens_N: NDArray[np.int32]) -> Iterator[Planned]:
        """Batches of the texts, slab by slab; `num_tokens_N` is filled with their lengths before the cut."""
        batch_tokens = BATCH_TOKENS[self._device.type]
        for start in range(0, len(texts), TEXTS_PER_SLAB):
            ids = encoder.tokenize(self._tokenizer, texts[start : start + TEXTS_PER_SLAB])
            num_tokens_N[start : start + len(ids)] = [len(row) for row in ids]
            for batch, rows in encoder.plan(ids, max_tokens=self._settings.max_tokens, batch_tokens=batch_tokens):
                yield batch._replace(indices=[start + index for index in batch.indices]), rows

    def _run(self, planned: Iterator[Planned]) -> Iterator[tuple[list[int], Tensor]]:
        pad_id, pooling = self._tokenizer.pad_token_id, self._settings.pooling
        if self._engine == "ray":
            from pipeline.retrieval import ray_encoder

            make = partial(network_elsewhere, self.checkpoint, self._device.type, self.dtype, torch.__version__)
            return ray_encoder.embed_all(planned, ray_encoder.Recipe(make, self._device.type, pad_id, pooling))
        return encoder.embed_all(self._network, planned, pad_id=pad_id, pooling=pooling)

    @cached_property
    def _network(self) -> Any:
        return load_network(self.checkpoint.folder, self._device, self.dtype)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self.checkpoint.folder)


def load(folder: Path, on: torch.device, number_format: torch.dtype) -> tuple[Any, Any]:
    """Network and tokenizer of a checked folder.

    Raises:
        ArtifactError: a file is broken, or weights are missing.
    """
    tokenizer = load_tokenizer(folder)
    return load_network(folder, on, number_format), tokenizer


def load_tokenizer(folder: Path) -> Any:
    """Raises ArtifactError: a file is broken."""
    from transformers import AutoTokenizer  # seconds to import, and not needed when the cache has every text

    with _named_errors(folder):
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def load_network(folder: Path, on: torch.device, number_format: torch.dtype) -> Any:
    """Without pooler, in evaluation mode.

    Raises:
        ArtifactError: a file is broken, or weights are missing.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    quiet: Any = logging  # its functions carry no types
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    with _named_errors(folder):
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
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ArtifactError(
            f"{folder / encoder.WEIGHTS}: {len(missing)} weights missing, first {missing[0]}; restore the file"
        )
    return network.to(on).eval()


def network_elsewhere(checkpoint: encoder.Checkpoint, kind: str, number_format: torch.dtype, torch_version: str) -> Any:
    """The network on another machine that sees the same folder; `kind` of device, number format and version of torch
    are those of the machine that asks.

    Raises:
        ArtifactError: the folder is not there, or holds other files.
        ConfigError: this machine would calculate otherwise.
    """
    here = f"machine {platform.node()}"
    way_out = "put the encoder where all machines of the cluster see the same files, or set score.engine: local"
    try:
        _, files_sha256 = encoder.digests(checkpoint.folder)
    except OSError as error:
        raise ArtifactError(
            f"retriever.source {checkpoint.source!r}: {here} cannot read {error.filename} ({error.strerror}); {way_out}"
        ) from None
    if files_sha256 != checkpoint.files_sha256:
        raise ArtifactError(
            f"retriever.source {checkpoint.source!r}: the files in {checkpoint.folder} have digest {files_sha256} on "
            f"{here}, and {checkpoint.files_sha256} on the one that started the stage; {way_out}"
        )
    on = torch.device(kind)
    if (torch.__version__, dtype(on)) != (torch_version, number_format):
        raise ConfigError(
            f"{here} has torch {torch.__version__} and embeds in {dtype(on)}, the one that started the stage has "
            f"{torch_version} and {number_format}; give all machines the same environment and kind of processor, or "
            "set score.engine: local"
        )
    return load_network(checkpoint.folder, on, number_format)


@contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors raise a dozen kinds, some of them bare
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ArtifactError(f"{folder}: cannot be loaded as a BERT encoder ({reason}); restore its files") from None
