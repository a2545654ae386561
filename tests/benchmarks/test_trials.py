"""Trials: their settings, what a group and a name may be, and answers that are kept."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from benchmarks import trials
from benchmarks.trials import Trial
from pipeline.common import base_card, tables
from pipeline.runtime.errors import ArtifactError
from pipeline.training.objective import OBJECTIVES
from tests.conftest import ROOT
from tests.stages import test_evaluate

toy = test_evaluate.toy
TRIALS = {
    "first": Trial("vanilla"),
    "second": Trial("vanilla", {"train.steps": 2, "lora.embedding": "none"}),
    "third": Trial("vanilla", {"train.steps": 3}),
}
WORDS = ["--groups", "toy", "--only", "second"]


def test_every_trial_has_valid_settings_and_differs_from_the_others(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    for group, rows in trials.GROUPS.items():
        made = [(trial.method, trials.settings_of(trial, seed=7)) for trial in rows.values()]
        for method, settings in made:
            assert settings.train.seed == 7
            assert OBJECTIVES[method](settings).reads_labels or settings.distill.labelled == 0
        for name, one in zip(rows, made, strict=True):
            assert made.count(one) == 1, (group, name)


def test_a_key_is_laid_over_params_yaml_and_leaves_its_section_alone(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    plain = trials.settings_of(Trial("vanilla"), 1).model_dump()
    changed = trials.settings_of(Trial("vanilla", {"lora.rank": 5, "attention.layers": [2]}), 1).model_dump()
    plain["lora"]["rank"], plain["attention"]["layers"] = 5, [2]
    assert changed == plain


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--groups", "recipes"], "argument --groups: invalid choice: 'recipes' (choose from "),
        (["--only", "embeddings"], "argument --only: invalid choice: 'embeddings' (choose from "),
    ],
)
def test_an_unknown_group_or_name_is_refused_in_one_line(words, said, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        trials.main(words)
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def project(toy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy of stage evaluate, with questions to train on and questions of split dev."""
    for number, rows in enumerate(zip(toy.examples, toy.full, strict=True)):
        for row in rows:
            row["split"] = "train" if number < 8 else "dev"
    toy.write(base_card.read_card().tokenizer_sha256)
    tables.write(tables.TEACHINGS, [])
    yaml, params = YAML(typ="safe"), Path("params.yaml")
    settings = yaml.load(params.read_text(encoding="utf-8"))
    settings["train"] |= {"steps": 1, "batch_examples": 4, "warmup_steps": 0, "log_every": 1}
    yaml.dump(settings, params)
    monkeypatch.setitem(trials.GROUPS, "toy", TRIALS)
    monkeypatch.setattr(trials, "RESAMPLES", 50)
    return Path()


def test_trials_are_compared_with_the_first_and_their_answers_are_kept(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    found = trials.main([*WORDS, "--results", "results.json"])["groups"]["toy"]
    printed = capsys.readouterr().out
    assert list(found) == ["first", "second"]
    assert found["first"]["to_reference"] is None and found["second"]["to_reference"]["num_questions"] == 8
    assert found["second"]["changes"] == {"train.steps": 2, "lora.embedding": "none"}
    assert "train@trial-" in printed and "| second | 1 | " in printed
    assert sorted(path.name for path in base_card.MODELS.iterdir()) == [".checkpoints", "base", "trials"]
    assert len(list(trials.KEPT.glob("trial-*.parquet"))) == 2
    trained = []
    monkeypatch.setattr(trials.train, "train_adapter", lambda name, settings, objective: trained.append(settings))
    assert trials.main(WORDS)["groups"]["toy"] == found
    assert trained == []
    with pytest.raises(ArtifactError, match="trial-"):  # another seed needs a training, which writes nothing here
        trials.main([*WORDS, "--seeds", "2"])
    assert [settings.train.seed for settings in trained] == [2]
