"""The device of the models: an environment variable, not a setting, so that moving to a GPU reruns nothing."""

import os

import torch

from pipeline.runtime.errors import ConfigError


def device() -> torch.device:
    """Return FOCUS_DEVICE, else the GPU when there is one, else the CPU.

    Raises:
        ConfigError: FOCUS_DEVICE names a device that is not available.
    """
    chosen = os.environ.get("FOCUS_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    kind = chosen.split(":")[0]
    if kind not in ("cpu", "cuda") or (kind == "cuda" and not torch.cuda.is_available()):
        available = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise ConfigError(f"FOCUS_DEVICE is {chosen!r}; available here: {available}; set one of these or unset it")
    return torch.device(chosen)
