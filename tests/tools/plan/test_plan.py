"""`make plan`: reads what is there, prints one table, refuses what cannot fit in one line that names a value."""

import shutil
from pathlib import Path

import pytest

from pipeline.common import tables
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, ResourceError
from pipeline.runtime.settings import PlanStage
from pipeline.tools.plan import __main__ as plan
from pipeline.tools.plan import hardware, model_shapes, workload, workloads
from tests.conftest import ROOT

PAPER = {"data: bios ": "data: quality ", "model: tiny ": "model: mistral ", "profile: cpu ": "profile: paper "}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """params.yaml and conf/ alone: no data, no DVC."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FOCUS_TFLOPS", "989")
    monkeypatch.setenv("FOCUS_GIB", "139")
    return tmp_path


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
        assert f"\n| {stage} | " in printed


def test_the_paper_is_planned_for_an_h200_and_refused_by_a_small_gpu(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    edit(project, PAPER)
    plan.main()
    printed = capsys.readouterr().out
    assert "the known size of quality" in printed
    assert "weights to fetch 13.5" in printed
    monkeypatch.setenv("FOCUS_GIB", "18")
    with pytest.raises(
        ResourceError, match=r"train@vanilla needs [\d.]+ GiB, there are 18.0; set \w+\.\w+ to "
    ) as caught:
        plan.main()
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    assert "does not fit" in capsys.readouterr().out
    monkeypatch.setenv("FOCUS_GIB", "12")
    with pytest.raises(ResourceError, match=r"the weights alone do not fit; set use\.model to a smaller one"):
        plan.main()


def test_a_benchmark_without_training_files_is_planned_without_training(project: Path):
    edit(project, {**PAPER, "data: bios ": "data: hotpot "})
    settings = config.load(PlanStage)
    shape = model_shapes.base(settings.model)
    machine = hardware.find("bfloat16", shape.hidden, shape.intermediate)
    names = [row.name for row in plan.estimates(settings, shape, workloads.find(settings, shape.vocabulary), machine)]
    assert names[-1] == "evaluate@base"
    assert not [name for name in names if name.startswith("train")]


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
    with pytest.raises(ArtifactError, match=r"broken/config.json: not valid JSON"):
        plan.main()


def test_rows_are_counted_in_the_views(project: Path):
    def row(name: str, split: str, context: str, length: int) -> tables.Row:
        return {
            "example_id": name, "question_id": name, "split": split, "num_documents": 1, "gold_position": 0,
            "document_ids": [context], "input_ids": [7] * length, "chunk_ids": ["a#0"], "chunk_starts": [1],
            "chunk_ends": [5], "question_start": 6, "prompt_end": length - 3,
        }  # fmt: skip

    rows = [row("a", "train", "x", 20), row("b", "train", "x", 30), row("c", "test", "y", 90)]
    tables.write(workloads.FULL, tables.FULL_VIEWS, rows)
    assert workloads._counted("train") == workload.Rows(2, 1, 25.0, 30, 16.0, 3.0)
    assert workloads._counted("test").longest == 90
    assert workloads._counted("dev").num == 0
    # They are not trusted where nobody can say that they are fresh.
    settings = config.load(PlanStage)
    assert workloads.find(settings, 2_473).source.startswith("the known size of bios")


def test_fresh_views_are_used_and_cut(project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workloads, "_stale", lambda: {"score"})
    monkeypatch.setattr(workloads, "_counted", lambda split: workload.Rows(4, 4, 3_000.0, 5_000, 20.0, 5.0))
    monkeypatch.setattr(workloads, "_texts", lambda *given: (10, 100.0))
    workloads.FULL.parent.mkdir(parents=True)
    workloads.FULL.touch()
    found = workloads.find(config.load(PlanStage), 2_473)
    assert found.source.endswith("counted")
    assert (found.train.longest, found.train.mean_tokens) == (4_096, 3_000.0)
    assert 0 < found.kept_share < found.masked_share <= 1


def test_texts_are_estimated_by_their_characters(project: Path):
    chunk = {"index": 0, "start": 0, "end": 1, "title": ""}
    tables.write(
        workloads.CHUNKS,
        tables.CHUNKS,
        [{**chunk, "chunk_id": f"{name}#0", "document_id": name, "text": "x" * 430} for name in ("a", "b")],
    )
    example = {
        "question_id": "q", "benchmark": "jsonl", "split": "train", "question": "y" * 43, "answer_lead": "",
        "answers": ["z"], "gold_document_ids": [], "evidence": [], "gold_position": -1, "answer_types": [],
        "options": [], "gold_option": -1, "subset": "",
    }  # fmt: skip
    tables.write(
        workloads.EXAMPLES,
        tables.EXAMPLES,
        [
            {**example, "example_id": "e", "document_ids": ["a", "b"]},
            {**example, "example_id": "f", "document_ids": ["a"]},
        ],
    )
    rows = workloads._estimated("train", 32_000)
    assert (rows.num, rows.num_contexts) == (2, 2)
    assert rows.longest == pytest.approx(200 + 10 + 8 + 2 + 16, abs=3)
    assert workloads._estimated("train", 2_473).longest > 1.9 * rows.longest


@pytest.mark.parametrize("value", ["fast", "0", "-1", "inf", "nan"])
def test_a_wrong_speed_or_memory_is_refused(monkeypatch: pytest.MonkeyPatch, value: str):
    for name in ("FOCUS_TFLOPS", "FOCUS_GIB"):
        monkeypatch.setenv("FOCUS_TFLOPS", "1")
        monkeypatch.setenv("FOCUS_GIB", "1")
        monkeypatch.setenv(name, value)
        with pytest.raises(ConfigError, match=rf"{name} is '{value}'; it must be a positive number"):
            hardware.find("float32", 64, 64)


def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    monkeypatch.delenv("FOCUS_TFLOPS", raising=False)
    monkeypatch.delenv("FOCUS_GIB", raising=False)
    monkeypatch.setattr(hardware, "_SECONDS", 0.05)
    found = hardware.find("float32", 64, 128)
    assert 1e8 < found.flops < 1e14
    assert 1e8 < found.bandwidth < 1e13
    assert 1 < found.memory / 2**30 < 1e5
    assert found.name.startswith("cpu, ")
    monkeypatch.setenv("FOCUS_GIB", "2.5")
    assert hardware.find("float32", 64, 128).memory == 2.5 * 2**30
