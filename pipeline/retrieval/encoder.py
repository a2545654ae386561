"""An encoder of the BERT family: find and check its files, load it, and turn texts into embeddings.

Embeddings are those of facebookresearch/contriever @39fb2201 (src/contriever.py). Batches hold texts of one padded
length, and every batch of that length has the same number of rows, so that a text's embedding is the same to the last
bit whatever texts are beside it, and a half-filled cache gives the scores of an empty one.
"""

import hashlib
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from torch import Tensor

from pipeline.runtime.errors import ArtifactError, ConfigError, one_line
from pipeline.runtime.settings import EncoderRetriever

# B texts of a batch, L tokens of its longest text, D dimensions of an embedding

WEIGHTS = "model.safetensors"
OTHER_FILES = (
    "config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json",
    "vocab.json", "merges.txt", "sentencepiece.bpe.model", "spiece.model",
)  # fmt: skip
MODEL_TYPES = ("albert", "bert", "camembert", "distilbert", "electra", "ernie", "roberta", "xlm-roberta")
"""Encoders of transformers with full attention and positions from 0, or as RoBERTa's from pad_token_id + 1."""
LENGTH_STEP = 16
BATCH_TOKENS = {"cpu": 1024, "cuda": 65_536}
TEXTS_PER_SLAB = 8192  # texts that are tokenized at a time: it bounds memory


@dataclass(frozen=True)
class Checkpoint:
    """The files of one encoder."""

    source: str
    folder: Path
    sha256: str
    """Digest of model.safetensors."""
    files_sha256: str
    """Digest of all files that an embedding depends on: weights, configuration, tokenizer."""


def find(settings: EncoderRetriever) -> Checkpoint:
    """Find the checkpoint in a folder, a Python package or on the hub, and check it before anything is loaded.

    Raises:
        ArtifactError: it is missing, unreachable, without safetensors, of another type, or has other weights than
            those pinned.
        ConfigError: retriever.max_tokens is more than the checkpoint can take.
    """
    source, folder = f"retriever.source {settings.source!r}", _folder(settings.source, settings.revision)
    if not (folder / WEIGHTS).is_file():
        others = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
        raise ArtifactError(
            f"{source}: no {WEIGHTS} in {folder}{f' (only {others}, which may run code when read)' if others else ''}; "
            "name a revision or a folder that has it, or convert the weights once with save_pretrained"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, limit = config["model_type"], int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{source}: {folder / 'config.json'} is not a model's configuration ({error}); restore the file"
        ) from None
    if kind not in MODEL_TYPES:
        raise ArtifactError(f"{source}: model_type is {kind!r}; choose an encoder of type {', '.join(MODEL_TYPES)}")
    if kind in ("camembert", "roberta", "xlm-roberta"):
        limit -= config.get("pad_token_id", 1) + 1
    if settings.max_tokens > limit:
        raise ConfigError(
            f"retriever.max_tokens is {settings.max_tokens}, but {settings.source} takes at most {limit}; lower it"
        )
    sha256, files_sha256 = digests(folder)
    if settings.sha256 not in (None, sha256):
        raise ArtifactError(
            f"{source}: {WEIGHTS} has sha256 {sha256}, retriever.sha256 is {settings.sha256}; restore the weights, or "
            "set retriever.sha256 to null if you mean to use these"
        )
    return Checkpoint(settings.source, folder, sha256, files_sha256)


def digests(folder: Path) -> tuple[str, str]:
    """Return the digests of model.safetensors and of all files that an embedding depends on.

    Raises:
        OSError: there is no model.safetensors.
    """
    sha256 = _sha256(folder / WEIGHTS)
    others = [f"{name} {_sha256(folder / name)}" for name in OTHER_FILES if (folder / name).is_file()]
    return sha256, hashlib.sha256("\n".join([sha256, *others]).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _folder(source: str, revision: str | None) -> Path:
    if source.startswith("package:"):
        package, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise ArtifactError(
                f"retriever.source {source!r}: the Python package {package!r} is not installed; "
                f"`pip install {package.replace('_', '-')}`, or set retriever.source to a local folder"
            )
        folder = Path(spec.submodule_search_locations[0]) / inside
        if not folder.is_dir():
            raise ArtifactError(f"retriever.source {source!r}: the package has no folder {inside!r}; check the name")
        return folder
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[WEIGHTS, *OTHER_FILES]))
    except Exception as error:  # the hub's client raises a dozen kinds, those of its HTTP library among them
        raise ArtifactError(
            f"retriever.source {source!r} is no local folder, and the hub gave nothing at revision "
            f"{revision or 'main'} ({one_line(error)}); put config.json, {WEIGHTS} and the tokenizer's files in a "
            "folder and set retriever.source to its path, or choose minilm or bm25 (use.retriever), which need no hub"
        ) from None


def load_network(folder: Path, on: torch.device, dtype: torch.dtype) -> Any:
    """Load the network in evaluation mode. The weights of its pooler may be missing, because none of it is read.

    Raises:
        ArtifactError: a file is broken, or weights are missing.
    """
    from transformers import AutoModel
    from transformers.utils import logging

    quiet: Any = logging  # its functions carry no types
    quiet.set_verbosity_error()
    quiet.disable_progress_bar()
    with _as_artifact_error(folder):
        network, report = AutoModel.from_pretrained(
            folder,
            attn_implementation="sdpa",
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    if missing := sorted(name for name in report["missing_keys"] if not name.startswith("pooler.")):
        raise ArtifactError(f"{folder / WEIGHTS}: {len(missing)} weights missing, first {missing[0]}; restore the file")
    return network.to(on).eval()


@contextmanager
def _as_artifact_error(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # transformers, tokenizers and safetensors raise a dozen kinds, some of them bare
        raise ArtifactError(
            f"{folder}: cannot be loaded as an encoder ({one_line(error)}); restore its files"
        ) from None


def number_format(on: torch.device) -> torch.dtype:
    """Return bfloat16 where the hardware multiplies it, else float32, because emulated bfloat16 is far slower."""
    if on.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    able: dict[str, Any] = dict(torch.cpu.get_capabilities())
    return torch.bfloat16 if able.get("avx512_bf16") or able.get("amx_bf16") else torch.float32


class EncoderBatch(NamedTuple):
    """Texts that are encoded together."""

    indices: list[int]
    """Indices of the texts among those that were batched."""
    ids: list[list[int]]
    """Token ids of each text, truncated."""
    lengths: list[int]
    """Tokens of each text before it was truncated, special tokens included."""
    num_tokens: int
    """Tokens of each row, padding included."""
    num_rows: int
    """At least the number of texts; the other rows are filled with copies of the last text."""


def truncate(ids: list[int], max_tokens: int) -> list[int]:
    """Shorten to at most `max_tokens` ids, the last one still [SEP]."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def batches(ids: Sequence[list[int]], *, max_tokens: int, batch_tokens: int) -> Iterator[EncoderBatch]:
    """Group tokenized texts by padded length, longest first, with at most `batch_tokens` or one row in a batch."""
    indices_of: defaultdict[int, list[int]] = defaultdict(list)
    for index, row in enumerate(ids):
        indices_of[min(-(-len(row) // LENGTH_STEP) * LENGTH_STEP, max_tokens)].append(index)
    for num_tokens, indices in sorted(indices_of.items(), reverse=True):
        num_rows = max(1, batch_tokens // num_tokens)
        for start in range(0, len(indices), num_rows):
            chosen = indices[start : start + num_rows]
            truncated = [truncate(ids[index], max_tokens) for index in chosen]
            yield EncoderBatch(chosen, truncated, [len(ids[index]) for index in chosen], num_tokens, num_rows)


def pool(hidden_BLD: Tensor, mask_BL: Tensor, pooling: Literal["mean", "cls"]) -> Tensor:
    """Return embedding_BD in float32: the state of the first token, or the mean over all tokens but padding."""
    if pooling == "cls":
        return hidden_BLD[:, 0].float()
    summed_BD = hidden_BLD.float().masked_fill(~mask_BL[:, :, None], 0.0).sum(dim=1)
    return summed_BD / mask_BL.sum(dim=1, keepdim=True)


class TextEncoder:
    """A checked checkpoint and how its embeddings are made; tokenizer and network are loaded when first needed."""

    def __init__(self, settings: EncoderRetriever, on: torch.device) -> None:
        """Find the checkpoint. Raises what `find` raises."""
        self.checkpoint = find(settings)
        self.device, self.dtype = on, number_format(on)
        self._max_tokens, self._pooling = settings.max_tokens, settings.pooling

    @property
    def name(self) -> str:
        """Everything that an embedding depends on, beside its text."""
        return f"{self.checkpoint.files_sha256} {self._max_tokens} {self._pooling} {self.dtype}"

    @cached_property
    def network(self) -> Any:
        return load_network(self.checkpoint.folder, self.device, self.dtype)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer  # takes seconds to import, and a full cache needs none

        with _as_artifact_error(self.checkpoint.folder):
            return AutoTokenizer.from_pretrained(self.checkpoint.folder, trust_remote_code=False, local_files_only=True)

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text between [CLS] and [SEP], not truncated."""
        return list(self.tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]) if texts else []

    def batches(self, texts: Sequence[str]) -> Iterator[EncoderBatch]:
        """Tokenize the texts and group them into batches, TEXTS_PER_SLAB texts at a time."""
        for start in range(0, len(texts), TEXTS_PER_SLAB):
            ids = self.tokenize(texts[start : start + TEXTS_PER_SLAB])
            for batch in batches(ids, max_tokens=self._max_tokens, batch_tokens=BATCH_TOKENS[self.device.type]):
                yield batch._replace(indices=[start + index for index in batch.indices])

    @torch.inference_mode()
    def embed(self, batch: EncoderBatch) -> NDArray[np.float32]:
        """Return embedding_BD, one row for each text of the batch."""
        ids_BL = torch.full((batch.num_rows, batch.num_tokens), self.tokenizer.pad_token_id, dtype=torch.long)
        mask_BL = torch.zeros((batch.num_rows, batch.num_tokens), dtype=torch.bool)
        for row, ids in enumerate([*batch.ids, *[batch.ids[-1]] * (batch.num_rows - len(batch.ids))]):
            ids_BL[row, : len(ids)] = torch.tensor(ids)
            mask_BL[row, : len(ids)] = True
        ids_BL, mask_BL = ids_BL.to(self.device), mask_BL.to(self.device)
        # With a row per query, the mask reaches attention as it is. transformers drops a mask of one row per text when
        # no text is padded, and attention without a mask is another kernel, which rounds differently.
        mask_B1LL = mask_BL[:, None, None, :].expand(-1, 1, batch.num_tokens, -1)
        hidden_BLD = self.network(input_ids=ids_BL, attention_mask=mask_B1LL).last_hidden_state
        embedding_BD: NDArray[np.float32] = pool(hidden_BLD, mask_BL, self._pooling)[: len(batch.ids)].cpu().numpy()
        return embedding_BD
