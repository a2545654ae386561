"""The copy of the project in which runs take place, and the answers that are kept of them."""

import shutil
from pathlib import Path

import pytest

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.tools.ablations import grid, runs
from tests.graph.project import Project


def test_a_kept_run_that_is_damaged_anywhere_is_not_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run = grid.AblationRun("digest", "evaluate", "base", {})
    assert runs.seconds_of([run]) == {"digest": None}
    answer = {
        "example_id": "e", "question_id": "q", "benchmark": "bios", "method": "base", "input": "full",
        "num_documents": 4, "gold_position": 0, "subset": "", "score": 1.0, "exact_match": 1.0, "error": "correct",
    }  # fmt: skip
    place = tmp_path / ".dvc/tmp/ablations/runs/digest.parquet"
    place.parent.mkdir(parents=True)
    tables.write(schema.ABLATION_RUN.at(place), [answer] * 300, {"seconds": "2.5"})
    assert runs.seconds_of([run]) == {"digest": 2.5}
    whole = place.read_bytes()
    for damaged in (whole[:100], b"", whole[:60] + bytes([whole[60] ^ 1]) + whole[61:]):
        place.write_bytes(damaged)
        assert runs.seconds_of([run]) == {"digest": None}


def test_what_a_killed_copy_left_is_gone_after_the_next_and_outputs_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = Project(tmp_path)
    monkeypatch.chdir(project.root)
    before = project.run("git", "status", "--porcelain").stdout
    extra, given = project.root / "conf/retriever/extra.yaml", project.root / "input/questions.jsonl"
    extra.write_text("kind: random\n")  # git does not know it yet
    given.write_text("{}\n")  # git ignores it
    workspace = runs.snapshot()
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
