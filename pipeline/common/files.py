"""Text, JSON and folders on disk: written whole or not at all; equal values give equal bytes."""

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import platformdirs

from pipeline.runtime.errors import ArtifactError, ResourceError

_REMEDIES = {
    errno.ENOSPC: "make room",
    errno.EDQUOT: "make room",
    errno.EFBIG: "raise the limit on the size of files (`ulimit -f`)",
    errno.EROFS: "make it writable",
    errno.EACCES: "make it writable",
    errno.EPERM: "make it writable",
    errno.EIO: "check the disk",
}
"""What to do where a file cannot be written, by the number of the error."""


@contextmanager
def writing(place: Path, num_bytes: int | None = None) -> Iterator[None]:
    """Name what cannot be written in the errors of a full or read-only disk, which name a temporary file or none.

    Args:
        place: the file or folder that will stand there at last. Its temporary files lie beside it.
        num_bytes: its size, where it is known.

    Raises:
        ResourceError: the disk is full, read-only or broken.
    """
    try:
        yield
    except OSError as error:
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        beside = [Path(name).absolute().is_relative_to(place.parent.absolute()) for name in names]
        if error.errno not in _REMEDIES or (beside and not any(beside)):
            raise
        size = "" if num_bytes is None else f" ({num_bytes:,} bytes are needed)"
        raise ResourceError(
            f"{place}: cannot be written, {os.strerror(error.errno).lower()}{size}; {_REMEDIES[error.errno]}, and run "
            "it again"
        ) from None


def require_space(place: Path, num_bytes: int) -> None:
    """Check that the disk has room for what will be written to `place`, a file or folder.

    Raises:
        ResourceError: it has less.
    """
    parent = next(folder for folder in place.absolute().parents if folder.is_dir())
    if (free := shutil.disk_usage(parent).free) < num_bytes:
        raise ResourceError(
            f"{place}: {num_bytes:,} bytes are needed, {free:,} are free; make room, or write to another disk"
        )


@contextmanager
def atomic(path: Path, num_bytes: int | None = None) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, on failure it is removed and `path` stays.

    Raises:
        ResourceError: as `writing`; `num_bytes` is the size of the file, where it is known.
    """
    with writing(path, num_bytes):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            _follow_umask(temporary)
            os.replace(temporary, path)
        finally:
            with suppress(OSError):  # of a folder that is read-only, so that nothing was written
                temporary.unlink(missing_ok=True)


@contextmanager
def workspace(name: str, parent: Path) -> Iterator[Path]:
    """Give a folder beside parent/<name> for unfinished files, after removing the folders that killed runs left.

    Raises:
        ResourceError: as `writing`.
    """
    with writing(parent / name):
        parent.mkdir(parents=True, exist_ok=True)
        prefix = f".{name}.unfinished-"  # unlike any name that users choose
        for stale in parent.glob(f"{glob.escape(prefix)}*"):
            shutil.rmtree(stale)
        with tempfile.TemporaryDirectory(dir=parent, prefix=prefix) as folder:
            yield Path(folder)


def put(written: Path, place: Path) -> None:
    """Move a finished folder out of its workspace to its place; an older folder there is removed with the workspace."""
    for path in written.rglob("*"):
        if path.is_file():
            _follow_umask(path)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():
        shutil.move(place, written.with_name(f"old-{written.name}"))
    shutil.move(written, place)


def _follow_umask(path: Path) -> None:
    """Let everybody read the file whom the umask lets read new ones; safetensors writes for its owner alone."""
    os.umask(umask := os.umask(0o077))  # it can be read by setting it only
    path.chmod(0o666 & ~umask)


def cache_folder() -> Path:
    """FOCUS_CACHE, else the user's cache folder: environment, because it changes no result."""
    chosen = os.environ.get("FOCUS_CACHE")
    return Path(chosen) if chosen else platformdirs.user_cache_path("focused-learning")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, with Unix line ends."""
    content = text.encode()
    with atomic(path, len(content)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, floats rounded to 6 decimals, so that equal results are equal bytes."""
    write_text(path, json.dumps(_rounded(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path, stage: str) -> Any:
    """Read a JSON artifact that `stage` wrote. Raises ArtifactError when it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run `dvc repro {stage}` first") from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: not valid JSON ({error}); delete it and run `dvc repro {stage}`") from None


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value
