"""`make plan`: reads what is there, prints one table, refuses what cannot fit in one line that names a value."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.common import base_card
from pipeline.runtime.errors import ArtifactError, ResourceError
from pipeline.tools.plan import __main__ as plan
from tests.conftest import ROOT

PAPER = {"data: bios ": "data: quality ", "model: tiny ": "model: mistral ", "profile: cpu ": "profile: paper "}


TOO_MUCH = '{"model_type": "llama", "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": "4"}}'


def edit(project: Path, changes: dict[str, str]) -> None:
    text = (project / "params.yaml").read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new, 1)
    (project / "params.yaml").write_text(text)


def test_the_default_is_planned_without_data(project: Path, capsys: pytest.CaptureFixture[str]):
    plan.main()
    printed = capsys.readouterr().out
    assert (
        "For: 989 TFLOP/s (FOCUS_TFLOPS), 139.0 GiB. Data: the known size of bios; `dvc repro tokenize mask`" in printed
    )
    for stage in ("score", "train@vanilla", "train@focused", "evaluate@base", "evaluate@focused", "analyze", "all"):
        assert f"\n| {stage} " in printed
    assert printed.endswith("\nEverything fits; next: `make repro`.\n")


def test_the_paper_is_planned_for_an_h200_and_refused_by_a_small_gpu(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    edit(project, PAPER)
    plan.main()
    printed = capsys.readouterr().out
    assert "the known size of quality" in printed
    assert "weights to fetch 13.5" in printed
    monkeypatch.setenv("FOCUS_GIB", "18")
    message = r"train@vanilla, train@focused, train@guided need up to [\d.]+ GiB, there are 18.0; set \w+\.\w+ to "
    with pytest.raises(ResourceError, match=message) as caught:
        plan.main()
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert "does not fit" in capsys.readouterr().out
    monkeypatch.setenv("FOCUS_GIB", "12")
    with pytest.raises(ResourceError, match=r"the weights alone do not fit; set use\.model to a smaller one"):
        plan.main()


def test_graph_is_refused_where_only_cached_fits_and_cached_is_said_to_be_dear_where_graph_fits(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    edit(project, PAPER)
    plan.main()
    assert "negatives cached; graph would fit too, and computes less" in capsys.readouterr().out
    edit(project, {"train:\n": "train:\n  negatives: graph\n"})
    monkeypatch.setenv("FOCUS_GIB", "60")
    with pytest.raises(
        ResourceError, match=r"^train@focused needs [\d.]+ GiB, there are 60.0; set train.negatives to cached$"
    ):
        plan.main()


def test_it_is_said_when_no_change_makes_it_fit(project: Path, monkeypatch: pytest.MonkeyPatch):
    edit(project, PAPER)
    monkeypatch.setenv("FOCUS_GIB", "14.6")
    with pytest.raises(
        ResourceError, match=r"no batch size and no length of the contexts makes it fit; set use\.model"
    ):
        plan.main()


def test_a_benchmark_without_training_files_is_planned_without_training(
    project: Path, capsys: pytest.CaptureFixture[str]
):
    edit(project, {**PAPER, "data: bios ": "data: hotpot "})
    plan.main()
    printed = capsys.readouterr().out
    assert "\n| evaluate@base " in printed
    for stage in ("teach", "train", "evaluate@vanilla", "analyze"):
        assert f"\n| {stage}" not in printed


def test_an_unknown_size_is_called_a_guess(project: Path, capsys: pytest.CaptureFixture[str]):
    edit(project, {"data: bios ": "data: jsonl "})
    plan.main()
    assert "Data: a guess (data.kind jsonl has no known size); `dvc repro tokenize mask`" in capsys.readouterr().out


def test_a_model_without_a_config_is_refused_with_the_mend(project: Path):
    edit(project, {"model: {}": "model: {source: nobody/nothing}"})
    with pytest.raises(
        ArtifactError, match=r"model.source 'nobody/nothing': its config.json is neither .* `dvc repro base`"
    ):
        plan.main()
    (project / "broken").mkdir()
    (project / "broken/config.json").write_text("{")
    edit(project, {"nobody/nothing": "broken"})
    for content in ("{", "[]", "{}", '{"model_type": 1}', '{"model_type": ["llama"]}', TOO_MUCH):
        (project / "broken/config.json").write_text(content)
        with pytest.raises(ArtifactError, match=r"broken.*(restore|choose)"):
            plan.main()


def test_a_gguf_file_is_planned_once_stage_base_has_taken_it_apart(project: Path, capsys: pytest.CaptureFixture[str]):
    edit(project, {"model: {}": "model: {source: here.gguf}"})
    (project / "models").unlink()
    refusal = r"^model.source 'here.gguf': stage base takes a GGUF file apart, .*; run `dvc repro base` first$"
    with pytest.raises(ArtifactError, match=refusal):
        plan.main()
    made = project / base_card.BASE
    shutil.copytree(ROOT / "models/tiny-base", made)
    card = base_card.BaseCard("other.gguf", None, "", 2473, "", None, [1], 2, 3)
    base_card.write_card(card, made)
    with pytest.raises(ArtifactError, match=refusal):
        plan.main()
    base_card.write_card(replace(card, source="here.gguf"), made)
    plan.main()
    printed = capsys.readouterr().out
    assert "\n| train@guided " in printed and "weights to fetch" not in printed
