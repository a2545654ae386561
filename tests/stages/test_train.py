"""Stage train: what it refuses before it loads anything."""

import shutil
import sys
from pathlib import Path

import pytest

from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.settings import Settings
from pipeline.stages import train
from pipeline.training.attention import AttentionLoss, AttentionTarget
from pipeline.training.objective import OBJECTIVES, VANILLA, Objective
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings alone: no artifact of an earlier stage."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train", *arguments])
    train.main()


@pytest.mark.parametrize("arguments", [(), ("base",), ("vanilla", "focused")])
def test_anything_but_one_known_method_is_refused(project, monkeypatch, arguments):
    with pytest.raises(ConfigError, match=r"train takes one method, got .*; choose from vanilla, focused, guided"):
        run(monkeypatch, *arguments)


def test_layers_that_the_base_does_not_have_are_refused(project):
    params = Path("params.yaml")
    params.write_text(params.read_text().replace("layers: all", "layers: [2, 4]"))
    objective = OBJECTIVES["guided"](config.load())
    train._require_layers(objective, 4)
    with pytest.raises(ConfigError, match=r"attention.layers names layer 4, but the base has 3; choose from 1 to 3"):
        train._require_layers(objective, 3)


def test_a_batch_of_one_is_refused_when_there_is_a_contrastive_loss(project, monkeypatch):
    params = Path("params.yaml")
    text = params.read_text().replace("train:\n  seed: 1", "train:\n  seed: 1\n  batch_examples: 1")
    params.write_text(text)
    with pytest.raises(ConfigError, match=r"train.batch_examples is 1: .* set contrastive.weight to 0.0"):
        run(monkeypatch, "focused")
    with pytest.raises(ArtifactError, match=r"base\.json: no such file; run `dvc repro base` first"):
        run(monkeypatch, "vanilla")
    params.write_text(text.replace("weight: 0.1", "weight: 0.0"))
    with pytest.raises(ArtifactError, match=r"base\.json: no such file"):
        run(monkeypatch, "focused")


def guided(**weights: float) -> Objective:
    """The objective of method guided with some weights, by section and key."""
    settings: Settings = config.load(root=ROOT)
    for name, value in weights.items():
        section, key = name.split("_")
        changed = getattr(settings, section).model_copy(update={key: value})
        settings = settings.model_copy(update={section: changed})
    return OBJECTIVES["guided"](settings)


def test_guided_teaches_answers_and_attention_and_either_alone():
    both, answers, attention = guided(), guided(attention_weight=0.0), guided(distill_weight=0.0)
    assert (both.distill, both.attention, both.batch_questions) == (1.0, 1.0, 8)
    assert both.attention_loss == AttentionLoss(None, "mean", "last_prompt")
    assert both.attention_target == AttentionTarget("top", 1, 0.05)
    assert answers == both._replace(attention=0.0, attention_loss=None, attention_target=None)
    assert attention == both._replace(distill=0.0)
    assert guided(attention_weight=0.0, distill_weight=0.0) == VANILLA  # nothing is taught, so no more is read
    for one in (guided(distill_labelled=0.0), guided(distill_labelled=0.0, distill_weight=0.0)):
        assert not one.reads_labels and one.batch_questions == 8
