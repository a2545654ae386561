"""Trackers beside the curves of DVC: FOCUS_TRACKERS names them, none by default; none of them can stop a training."""

import importlib.util
import os
import sys
from collections.abc import Mapping
from typing import Any

from accelerate import tracking

from pipeline.runtime.errors import ConfigError, one_line

TRACKERS = "FOCUS_TRACKERS"
PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
FOLDER = "runs"


class Trackers:
    """The trackers of one run."""

    def __init__(self, names: list[str], run: str, settings: Mapping[str, Any]) -> None:
        """Start the trackers; one that cannot start is left out, with a line on stderr."""
        self._trackers: list[Any] = []
        for name in names:
            try:
                tracker = _start(name, run)
                tracker.store_init_configuration(dict(settings))
                self._trackers.append(tracker)
            except Exception as error:  # such as a server that is down or a missing login; each package raises its own
                _left_out(name, error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for tracker in list(self._trackers):
            try:
                tracker.log({f"train/{name}": value for name, value in values.items()}, step=step)
            except Exception as error:
                self._trackers.remove(tracker)
                _left_out(tracker.name, error)

    def close(self) -> None:
        for tracker in self._trackers:
            try:
                tracker.finish()
            except Exception as error:
                _left_out(tracker.name, error)


def chosen() -> list[str]:
    """Return the names in FOCUS_TRACKERS.

    Raises:
        ConfigError: a name is unknown, or its package is not installed.
    """
    names = [name.strip() for name in (os.environ.get(TRACKERS) or "").split(",") if name.strip()]
    for name in names:
        if name not in PACKAGES:
            raise ConfigError(f"{TRACKERS} names {name!r}; choose from {', '.join(PACKAGES)}, separated by commas")
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(f"{TRACKERS} names {name}, which is not installed; run `pip install {PACKAGES[name]}`")
    return names


def _start(name: str, run: str) -> Any:
    os.makedirs(FOLDER, exist_ok=True)
    if name == "tensorboard":
        tracker: Any = tracking.TensorBoardTracker(run, logging_dir=FOLDER)
    elif name == "wandb":
        # Nothing leaves the machine by default; `wandb sync` sends it later.
        os.environ.setdefault("WANDB_MODE", "offline")
        os.environ.setdefault("WANDB_DIR", FOLDER)
        tracker = tracking.WandBTracker("focused-learning", name=run)
    else:
        os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{FOLDER}/mlflow.db")
        # Fail after seconds when the server is down, not after the minutes that mlflow waits by default.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        tracker = tracking.MLflowTracker("focused-learning", run_name=run)
    tracker.start()
    return tracker


def _left_out(name: str, error: Exception) -> None:
    reason = one_line(error)[:200]
    print(f"tracker {name} left out ({reason}); the curves are in reports/train all the same", file=sys.stderr)
