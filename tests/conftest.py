"""Small real objects that many tests share."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anybody imports torch or a tokenizer: no hub, no fork warnings, one thread is enough for what is tested here.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# How long an example takes says more about a busy machine than about the code.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep on one worker of `make test` the tests that share a fixture: those of a file, and those of the toy graph."""
    for item in items:
        shares_graph = "project" in getattr(item, "fixturenames", ()) and item.path.parent.name == "graph"
        item.add_marker(pytest.mark.xdist_group("graph" if shares_graph else str(item.path)))


ELSEWHERE = {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "tr_TR.UTF-8", "PYTHONPATH": str(ROOT)}
"""The environment of another machine: no output may depend on it."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True, text=True
        )
    except OSError as error:
        pytest.skip(f"mount cannot be run: {error}")
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.fixture
def shared() -> Path:
    """The folder with real data and golden vectors that stands beside a developer's checkout."""
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the repository: real data and golden vectors are not here")
    return SHARED
