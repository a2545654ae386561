"""Small real objects that many tests share."""

import os
from pathlib import Path

import pytest

# Before anybody imports torch or a tokenizer: no hub, no fork warnings, one thread is enough for what is tested here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture
def shared() -> Path:
    """The folder with real data and golden vectors that stands beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository: real data and golden vectors are not here")
    return SHARED
