"""The device of the models and their attention: environment, not settings, so that moving to a GPU reruns nothing."""

import os

import torch

from pipeline.runtime.errors import ConfigError

ATTENTION = ("sdpa", "eager")
"""The implementations of transformers that take any mask, as rows with a shared context need."""


def device() -> torch.device:
    """Return FOCUS_DEVICE, else the GPU when there is one, else the CPU. Apple's `mps` is used only where it is named.

    Raises:
        ConfigError: FOCUS_DEVICE names a device that is not available.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    chosen = os.environ.get("FOCUS_DEVICE") or ("cuda" if there["cuda"] else "cpu")
    if not there.get(chosen.split(":")[0]):
        available = ", ".join(kind for kind, is_there in there.items() if is_there)
        raise ConfigError(f"FOCUS_DEVICE is {chosen!r}; available here: {available}; set one of these or unset it")
    return torch.device(chosen)


def attention() -> str | None:
    """Return FOCUS_ATTENTION: transformers' `attn_implementation` of the causal model; None: its own choice.

    Raises:
        ConfigError: FOCUS_ATTENTION names another implementation.
    """
    chosen = os.environ.get("FOCUS_ATTENTION") or None
    if chosen not in (None, *ATTENTION):
        raise ConfigError(
            f"FOCUS_ATTENTION is {chosen!r}; only {' and '.join(ATTENTION)} take the masks of contexts that questions "
            "share; set one of these or unset it"
        )
    return chosen
