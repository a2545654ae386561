"""Text, JSON and folders on disk: written whole or not at all; equal values give equal bytes."""

import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import platformdirs

from pipeline.runtime.errors import ArtifactError


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, on failure it is removed and `path` stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def workspace(name: str, parent: Path) -> Iterator[Path]:
    """Give a folder beside parent/<name> for unfinished files, after removing the folders that killed runs left."""
    parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{name}.unfinished-"  # unlike any name that users choose
    for stale in parent.glob(f"{glob.escape(prefix)}*"):
        shutil.rmtree(stale)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder:
        yield Path(folder)


def put(written: Path, place: Path) -> None:
    """Move a finished folder out of its workspace to its place; an older folder there is removed with the workspace."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.move(place, written.with_name(f"old-{written.name}"))
    shutil.move(written, place)


def cache_folder() -> Path:
    """FOCUS_CACHE, else the user's cache folder: environment, because it changes no result."""
    chosen = os.environ.get("FOCUS_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("focused-learning")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with Unix line ends."""
    with atomic(path) as temporary:
        temporary.write_bytes(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, floats rounded to 6 decimals, so that equal results are equal bytes."""
    write_text(path, json.dumps(_rounded(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, stage: str) -> Any:
    """Read a JSON artifact that `stage` wrote. Raises ArtifactError when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run `dvc repro {stage}` first") from None
    except ValueError as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); delete it and run `dvc repro {stage}`") from None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
