"""Checkpoints of an unfinished training, written whole or not at all, and resumed only by the same training.

They lie in models/.checkpoints, which DVC neither hashes nor removes. A checkpoint is a folder that gets its name once
all of it is on disk; a marker file holds the digest of its state. Damaged checkpoints are passed over.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from filelock import FileLock, Timeout

from pipeline.common import files
from pipeline.runtime.errors import ConfigError, ResourceError

NUM_KEPT = 2
STATE, MARKER, IDENTITY = "state.pt", "complete.json", "identity.json"
SECONDS = "FOCUS_CHECKPOINT_SECONDS"


def interval() -> float:
    """Return the seconds between two checkpoints: FOCUS_CHECKPOINT_SECONDS, else 300; 0: one after every step.

    Raises:
        ConfigError: FOCUS_CHECKPOINT_SECONDS is not a number of seconds.
    """
    given = os.environ.get(SECONDS) or "300"
    try:
        seconds = float(given)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{SECONDS} is {given!r}; give seconds, 0 or more, or unset it (300)")
    return seconds


def identity(settings: Mapping[str, Any], data: Sequence[Path]) -> dict[str, Any]:
    """Return all that the adapter depends on: settings, digests of data and code, versions of the libraries.

    pipeline/runtime is left out: nothing in it changes an adapter, so an edit there must not discard a checkpoint.
    """
    ours = (name for name in sys.modules if name == "__main__" or f"{name}.".startswith("pipeline."))
    names = [name for name in ours if not f"{name}.".startswith("pipeline.runtime.")]
    paths = {getattr(sys.modules[name], "__file__", None) for name in names}  # the stage itself is __main__
    code = [Path(path) for path in sorted(filter(None, paths))]
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    flat = {
        f"{section}.{name}": value for section, values in settings.items() for name, value in sorted(values.items())
    }
    return {**flat, **versions, "code": _digest(code), **{str(path): _digest([path]) for path in data}}


def _digest(paths: Sequence[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


class Checkpoints:
    """The checkpoints of one training in `folder`; `identity` holds all that its result depends on."""

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        """Lock the folder; checkpoints of another identity are removed, with a line on what changed.

        Raises:
            ResourceError: another process trains in this folder.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = FileLock(folder / "lock")
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise ResourceError(
                f"{folder}: another process trains this method; wait for it, or stop it, and run the command again"
            ) from None
        found = _read_json(folder / IDENTITY)
        if found != dict(identity):
            if self._places():
                print(
                    f"not resumed, because the settings, data or code differ: {_difference(found, identity)}",
                    file=sys.stderr,
                )
            self.remove()
            _write(folder / IDENTITY, json.dumps(dict(identity), indent=1).encode())

    def latest(self) -> dict[str, Any] | None:
        """Return the newest state that is not damaged; damaged ones are removed."""
        for place in reversed(self._places()):
            if (state := _load(place)) is not None:
                return state
            print(f"{place}: damaged, removed", file=sys.stderr)
            shutil.rmtree(place)  # else it would count as one of the newest
        return None

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after `step` steps; all but the newest NUM_KEPT checkpoints are removed."""
        buffer = io.BytesIO()
        torch.save(dict(state), buffer)
        digest, num_bytes = hashlib.sha256(buffer.getbuffer()).hexdigest(), buffer.getbuffer().nbytes
        name = f"step-{step:08d}"
        files.require_space(self._folder / name, num_bytes)
        with files.workspace("step", self._folder) as unfinished, files.writing(self._folder / name, num_bytes):
            (unfinished / name).mkdir()
            _write(unfinished / name / STATE, buffer.getbuffer())
            _write(unfinished / name / MARKER, json.dumps({"step": step, "sha256": digest}).encode())
            files.put(unfinished / name, self._folder / name)
        for old in self._places()[:-NUM_KEPT]:
            shutil.rmtree(old, ignore_errors=True)

    def remove(self) -> None:
        """Remove all checkpoints: the training is finished, or another one begins."""
        with files.workspace("step", self._folder):  # removes what a killed process left
            for place in self._places():
                shutil.rmtree(place)

    def _places(self) -> list[Path]:
        """Return the folders of checkpoints, oldest first."""
        return sorted(path for path in self._folder.glob("step-" + "[0-9]" * 8) if path.is_dir())

    def close(self) -> None:
        self._lock.release()


def _load(place: Path) -> dict[str, Any] | None:
    """Return the state in a folder; None when its digest is not that of the marker."""
    marker = _read_json(place / MARKER)
    try:
        written = (place / STATE).read_bytes()
        if not isinstance(marker, dict) or marker.get("sha256") != hashlib.sha256(written).hexdigest():
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(written), map_location="cpu", weights_only=True)
        return state
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError):
        return None


def _write(path: Path, content: bytes | memoryview) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _difference(found: Any, identity: Mapping[str, Any]) -> str:
    if not isinstance(found, dict):
        return "its identity file is missing or damaged"
    names = sorted(name for name in {*found, *identity} if found.get(name) != identity.get(name))
    return ", ".join(f"{name} {_short(found.get(name))} -> {_short(identity.get(name))}" for name in names)


def _short(value: Any) -> str:
    return str(value) if len(str(value)) <= 20 else f"{str(value)[:12]}..."
