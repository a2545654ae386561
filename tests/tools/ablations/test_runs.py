"""The copy of the project in which runs take place, and the answers that are kept of them."""

import json
import re
import shutil
from pathlib import Path

import pytest

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.tools.ablations import grid, runs
from tests.graph.project import Project

ANSWER = {
    "example_id": "e", "question_id": "q", "benchmark": "bios", "method": "base", "input": "full", "num_documents": 4,
    "gold_position": 0, "subset": "", "score": 1.0, "exact_match": 1.0, "error": "correct",
}  # fmt: skip
RUN = grid.AblationRun("digest", "evaluate", "base", {}, {"train": {"steps": 2, "seed": 1}}, "evaluate-base-seed1")


def keep(marks: dict[str, str] | None = None) -> Path:
    """The file of RUN, with the marks that `finish` gives it, or other ones."""
    table = schema.ABLATION_RUN.at(runs.KEPT / "evaluate-base-seed1.parquet")
    usual = {
        "seconds": "2.5",
        "digest": "digest",
        "settings": json.dumps(RUN.settings),
        "made_by": "commit a; one core",
    }
    tables.write(table, [ANSWER] * 300, usual | (marks or {}))
    return table.path


def test_a_kept_run_that_is_damaged_anywhere_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    assert runs.kept([RUN]) == {"digest": None}
    place = keep()
    assert runs.kept([RUN]) == {"digest": runs.Kept(2.5, "commit a; one core", is_current=True)}
    whole = place.read_bytes()
    for damaged in (whole[:100], b"", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        place.write_bytes(damaged)
        assert runs.kept([RUN]) == {"digest": None}


@pytest.mark.parametrize(
    ("marks", "is_current"),
    [
        ({"digest": "of other code"}, False),
        ({"digest": "other", "settings": '{"train": {"seed": 1}}'}, False),  # made before there was train.steps
        ({"digest": "other", "settings": '{"train": {"steps": 2, "seed": 1, "gone": 3}}'}, False),
        ({"digest": "other", "settings": '{"train": {"steps": 3, "seed": 1}}'}, None),
        ({"settings": "{"}, None),
        ({"seconds": "soon"}, None),
    ],
)
def test_answers_of_other_code_are_found_where_the_settings_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marks: dict[str, str], is_current: bool | None
):
    monkeypatch.chdir(tmp_path)
    keep(marks)
    found = runs.kept([RUN])["digest"]
    assert (found and found.is_current) == is_current


def test_the_machine_is_named_with_its_cores_and_versions():
    assert re.search(r"^\S.*, \d+ cores, torch 2\.\S+, transformers \d\S+$", runs.machine())


def test_what_a_killed_copy_left_is_gone_after_the_next_and_outputs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    before = project.run("git", "status", "--porcelain").stdout
    extra, given = project.root / "conf/retriever/extra.yaml", project.root / "input/questions.jsonl"
    extra.write_text("kind: random\n")  # git does not know it yet
    given.write_text("{}\n")  # git ignores it
    workspace = runs.snapshot().folder
    assert (workspace / "conf/retriever/extra.yaml").is_file() and (workspace / "input/questions.jsonl").is_file()
    outputs = [workspace / name for name in ("data/examples.parquet", "models/.checkpoints/state")]
    for path in (*outputs, workspace / "stray.txt"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("of a run")
    shutil.rmtree(workspace / ".git")  # as when it is killed before its commit
    extra.unlink()
    given.unlink()
    params = project.root / "params.yaml"
    params.write_text(params.read_text() + "# an edit\n")
    runs.snapshot()
    for name in ("conf/retriever/extra.yaml", "input/questions.jsonl", "stray.txt"):
        assert not (workspace / name).exists(), name
    assert all(path.is_file() for path in outputs)
    assert (workspace / "params.yaml").read_bytes() == params.read_bytes()
    assert project.run("git", "-C", str(workspace), "status", "--porcelain").stdout == ""
    assert project.run("git", "status", "--porcelain").stdout == before + " M params.yaml\n"
