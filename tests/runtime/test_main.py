"""Exit codes of `run`, and the log of times: what it holds, and how a damaged log is read."""

import json
from pathlib import Path

import pytest

from pipeline.runtime import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(main, "_stage", lambda: "train@focused")
    return tmp_path


def noted() -> list[str]:
    return [json.loads(line)["stage"] for line in main.LOG.read_text().splitlines()] if main.LOG.exists() else []


def test_a_stage_that_ends_well_is_noted(folder: Path):
    with main.timed():
        pass
    with pytest.raises(SystemExit), main.timed():
        raise SystemExit(0)
    assert noted() == ["train@focused"] * 2
    assert list(main.latest_seconds()) == ["train@focused"]


@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt(), ValueError()])
def test_a_stage_that_fails_is_not(folder: Path, error: BaseException):
    with pytest.raises(type(error)), main.timed():
        raise error
    assert noted() == []


def test_a_log_that_cannot_be_written_stops_nothing(folder: Path):
    (folder / "runs").write_text("a file")
    with main.timed():
        pass
    assert main.latest_seconds() == {}


def test_the_last_execution_counts_and_broken_lines_are_passed_over(folder: Path):
    lines = ['{"stage": "mask", "seconds": 9}', '{"stage": "train', "[]", '{"seconds": 1}', "\x00\udcff", "1"]
    lines += ['{"stage": "report", "seconds": 1.5}', '{"stage": "mask", "seconds": 2.5}']
    main.LOG.parent.mkdir()
    main.LOG.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert list(main.latest_seconds().items()) == [("report", 1.5), ("mask", 2.5)]


def test_only_stages_are_noted():
    """This process runs tests."""
    assert main._stage() is None
