"""Trackers beside the curves of DVC: chosen by name, told everything, unable to stop a training."""

from pathlib import Path

import pytest

from pipeline.model.distributed import Processes
from pipeline.runtime import trackers
from pipeline.runtime.errors import ConfigError


class Recorder:
    """Takes down what it is told; breaks at the call that it is told to break at."""

    name = "recorder"

    def __init__(self, breaks_at: str = "") -> None:
        self.calls: list[tuple[object, ...]] = []
        self._breaks_at = breaks_at

    def _take(self, call: str, *values: object) -> None:
        self.calls.append((call, *values))
        if call == self._breaks_at:
            raise ConnectionError("server\nis down")

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self._take("settings", values)

    def log(self, values: dict[str, float], step: int) -> None:
        self._take("log", step, values)

    def finish(self) -> None:
        self._take("finish")


def watched(monkeypatch: pytest.MonkeyPatch, *recorders: Recorder) -> trackers.Trackers:
    waiting = list(recorders)
    monkeypatch.setattr(trackers, "_start", lambda name, run: waiting.pop(0))
    return trackers.Trackers(["recorder"] * len(recorders), "focused", {"train.steps": 6})


def follow(watchers: trackers.Trackers) -> None:
    for step in (2, 4):
        watchers.log(step, {"loss": 1.0 / step})
    watchers.close()


def test_a_tracker_is_told_settings_curves_and_the_end(monkeypatch: pytest.MonkeyPatch):
    recorder = Recorder()
    follow(watched(monkeypatch, recorder))
    assert recorder.calls == [
        ("settings", {"train.steps": 6}),
        ("log", 2, {"train/loss": 0.5}),
        ("log", 4, {"train/loss": 0.25}),
        ("finish",),
    ]


@pytest.mark.parametrize("call", ["settings", "log", "finish"])
def test_a_tracker_that_breaks_is_left_out_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: str
):
    broken, whole = Recorder(call), Recorder()
    follow(watched(monkeypatch, broken, whole))
    assert capsys.readouterr().err == (
        "tracker recorder left out (server is down); the curves are in reports/train all the same\n"
    )
    assert len(whole.calls) == 4
    assert [name for name, *_ in broken.calls].count(call) == 1


def test_names_are_checked(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("FOCUS_TRACKERS", raising=False)
    assert trackers.chosen() == []
    monkeypatch.setenv("FOCUS_TRACKERS", "tensorbord")
    with pytest.raises(ConfigError, match="FOCUS_TRACKERS names 'tensorbord'; choose from tensorboard, wandb, mlflow"):
        trackers.chosen()
    monkeypatch.setenv("FOCUS_TRACKERS", " wandb, mlflow ")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="FOCUS_TRACKERS names wandb, which is not installed; run `pip install wandb`"
    ):
        trackers.chosen()


@pytest.mark.parametrize("name", trackers.PACKAGES)
@pytest.mark.filterwarnings("default")
def test_a_real_tracker_writes_without_a_network(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip(trackers.PACKAGES[name], reason=f"{name} is not installed")
    monkeypatch.chdir(tmp_path)
    Processes()
    follow(trackers.Trackers([name], "focused", {"train.steps": 6, "model.revision": None}))
    assert [path for path in (tmp_path / trackers.FOLDER).rglob("*") if path.is_file()]
