"""Versions of what computes: each training notes them beside its curves."""

import platform
from importlib import metadata

PACKAGES = ("accelerate", "dvc", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def versions() -> dict[str, str]:
    """Name -> version, of Python and PACKAGES."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}
