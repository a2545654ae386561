"""The files of an encoder: found in a folder, a Python package or on the hub, and checked before anything is loaded.

Weights are read from safetensors. Where a repository has pickled ones alone (Contriever's), they are converted once, by
torch's reader that runs no code, into a folder of FOCUS_CACHE that is named by the digest of what they came from.
"""

import hashlib
import importlib.util
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pipeline.common import files, pretrained
from pipeline.runtime.errors import ArtifactError, ResourceError, one_line
from pipeline.runtime.settings import DenseRetriever

WEIGHTS = "model.safetensors"
SAFE, PICKLED = "model*.safetensors", "pytorch_model*.bin"
TEXTS, MODULES = ("*.json", "*.txt", "*.model"), "[0-9]*_*"
"""Configuration and tokenizer; folders in which sentence-transformers keeps its modules, as 1_Pooling."""


@dataclass(frozen=True)
class Checkpoint:
    """The files of one encoder."""

    source: str
    folder: Path
    sha256: str
    """Digest of the weights: of model.safetensors, or of pytorch_model.bin where that is all there is."""
    files_sha256: str
    """Digest of all files that an embedding depends on: weights, configuration, tokenizer."""


def find(settings: DenseRetriever) -> Checkpoint:
    """Find the checkpoint in a folder, a Python package or on the hub.

    Raises:
        ArtifactError: it is missing, unreachable, without weights, or has other weights than those pinned.
    """
    source, folder = f"retriever.source {settings.source!r}", _folder(settings.source, settings.revision)
    if not _weights(folder):
        raise ArtifactError(
            f"{source}: no {WEIGHTS} and no pytorch_model.bin in {folder}; name a revision or a folder that has one"
        )
    sha256, files_sha256 = digests(folder)
    if settings.sha256 not in (None, sha256):
        raise ArtifactError(
            f"{source}: {_weights(folder)[0].name} has sha256 {sha256}, retriever.sha256 is {settings.sha256}; restore "
            "the weights, or set retriever.sha256 to null if you mean to use these"
        )
    return Checkpoint(settings.source, folder, sha256, files_sha256)


def digests(folder: Path) -> tuple[str, str]:
    """Return the digests of the weights (of several files in the order of their names) and of all files.

    Raises:
        OSError: there are no weights.
    """
    sha256 = _sha256(_weights(folder) or [folder / WEIGHTS])
    others = [f"{path.relative_to(folder)} {_sha256([path])}" for path in _others(folder)]
    return sha256, hashlib.sha256("\n".join([sha256, *others]).encode()).hexdigest()


def _weights(folder: Path) -> list[Path]:
    return sorted(folder.glob(SAFE)) or sorted(folder.glob(PICKLED))


def _others(folder: Path) -> list[Path]:
    found = (path for pattern in (*TEXTS, f"{MODULES}/**/*") for path in folder.glob(pattern))
    return sorted(path for path in found if path.is_file())


def _sha256(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: total)
    return total.hexdigest()


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
    remedy = (
        f"put config.json, {WEIGHTS} and the tokenizer's files in a folder and set retriever.source to its path, or "
        "choose minilm or bm25 (use.retriever), which need no hub"
    )
    with pretrained.from_hub(f"retriever.source {source!r} is no local folder", revision, remedy):
        folder = Path(snapshot_download(source, revision=revision, allow_patterns=[SAFE, *TEXTS, f"{MODULES}/*"]))
        if not _weights(folder):
            snapshot_download(source, revision=revision, allow_patterns=PICKLED)
    return folder


def safetensors_folder(found: Checkpoint) -> Path:
    """Return the folder that has the weights in safetensors: the checkpoint's own, or one in the cache.

    Raises:
        ArtifactError: the pickled weights are broken, or ask for anything but tensors; nothing of it is run.
        ResourceError: the cache cannot be written.
    """
    pickled = _weights(found.folder)
    if pickled[0].suffix == ".safetensors":
        return found.folder
    place = files.cache_folder() / "encoders" / found.sha256 / WEIGHTS
    if not place.is_file():
        tensors = {name: tensor.contiguous().clone() for path in pickled for name, tensor in _unpickled(path).items()}
        try:
            with files.atomic(place) as temporary:
                save_file(tensors, temporary, metadata={"format": "pt", "source_sha256": found.sha256})
        except (OSError, SafetensorError) as error:
            raise ResourceError(
                f"{place}: cannot be written ({one_line(error)}); free some disk, or set FOCUS_CACHE to a folder that "
                "can be written"
            ) from None
    return place.parent


def _unpickled(path: Path) -> dict[str, Tensor]:
    """Read pickled tensors with torch's reader that calls nothing the file names. A file that would unfold to more
    bytes than it has is refused as well."""
    num_bytes = path.stat().st_size
    with as_artifact_error(path):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                assert sum(entry.file_size for entry in archive.infolist()) <= num_bytes, "it is a compressed archive"
        found = torch.load(path, map_location="cpu", weights_only=True)
        assert isinstance(found, dict), "it holds no named tensors"
        for name, tensor in found.items():
            plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.nbytes <= num_bytes
            assert plain, f"{name} is no plain tensor"
    return found


@contextmanager
def as_artifact_error(path: Path) -> Iterator[None]:
    """Turn what the libraries raise while they load a file or folder into one line, and keep them from warning."""
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except Exception as error:  # transformers, torch, tokenizers and safetensors raise a dozen kinds, some of them bare
        why = one_line(error)
        if "trust_remote_code" in why:
            why = "it needs code of its own, which is not run"
        if isinstance(error, pickle.UnpicklingError):  # torch's long message advises to run what the file asks for
            asked = re.search(r"GLOBAL (\S+)", why)
            why = f"it asks to run {asked[1]}, which was not done" if asked else "it is no pickle of tensors"
        raise ArtifactError(
            f"{path}: cannot be loaded as an encoder ({why}); restore its files, or take them from a source you trust"
        ) from None


def read_json(path: Path) -> Any:
    """Read a JSON file of an encoder. Raises ArtifactError: it is missing or damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); restore the file") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: no JSON ({error}); restore the file") from None
