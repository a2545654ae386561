"""The command: what it prints, two rows compared, and a tiny grid run for real, killed and gone on with."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.report import focus_map
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.tools.ablations import __main__ as ablations
from pipeline.tools.ablations import grid
from tests.conftest import ROOT
from tests.graph.project import Project

DONE = re.compile(r"(\d+) of (\d+) runs are done")


def test_the_time_left_goes_by_other_seeds_then_by_the_method_then_by_all():
    def made(method: str, seed: int, **overrides: Any) -> grid.AblationRun:
        return grid.AblationRun(f"{method}{seed}{overrides}", "evaluate", method, {**overrides, grid.SEED: seed})

    done = [made("vanilla", 1), made("vanilla", 1, steps=240), made("base", 1)]
    waiting = [made("vanilla", 2, steps=240), made("vanilla", 1, rank=4), made("focused", 1)]
    took = dict(zip([run.digest for run in done + waiting], [60.0, 80.0, 40.0, None, None, None], strict=True))
    found = [ablations._time_left([run], took, done + waiting) for run in waiting]
    assert found == [", about 80 s", ", about 70 s", ", about 60 s"]
    assert ablations._time_left(waiting, dict.fromkeys(took), waiting) == "; how long is known when one is done"
    assert ablations._time_left([], took, done) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--jobs", "0"], "argument --jobs: '0' is not a whole number above 0; see `python"),
        (["--lst"], "unrecognized arguments: --lst; see `python -m pipeline.tools.ablations --help`"),
        (["--compare", "focused"], "argument --compare: expected 2 arguments"),
        (["--grid", "mapp"], "conf/mapp.yaml: no such file"),
    ],
)
def test_wrong_arguments_are_one_error(monkeypatch: pytest.MonkeyPatch, words: list[str], message: str):
    monkeypatch.setattr(sys, "argv", ["ablations", *words])
    with pytest.raises(ConfigError, match=message):
        ablations.main()


def test_the_list_shows_the_recorded_figures_and_the_commit_that_made_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["ablations", "--list", "--only", "guided"])
    ablations.main()
    *lines, _, recorded = capsys.readouterr().out.splitlines()
    record = json.loads((ROOT / "reports/ablations.json").read_text())
    (mean,) = (row["pooled"]["mean"] for row in record["rows"] if row["name"] == "guided-no-labels")
    (line,) = (line for line in lines if line.startswith("guided-no-labels "))
    assert f" recorded {100 * mean:.1f} (3) " in line
    assert recorded.endswith(f"the code that made these figures: {record['code']}")


def test_two_rows_are_compared_by_their_kept_answers_and_faults_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"reports/ablations.parquet: no such file; run the grid first"):
        ablations._comparison(schema.ABLATIONS, "focused", "vanilla")
    answers = [
        {
            "row": row, "seed": seed, "example_id": f"e{place}", "question_id": f"q{place}", "benchmark": "bios",
            "method": row, "input": "full", "num_documents": 4, "gold_position": 0, "subset": "",
            "score": float(place % 4 < right), "exact_match": float(place % 4 < right),
            "error": "correct" if place % 4 < right else "distraction",
        }
        for row, right in (("vanilla", 2), ("focused", 3))
        for seed in (1, 2)
        for place in range(40)
    ]  # fmt: skip
    tables.write(schema.ABLATIONS, answers)
    text = ablations._comparison(schema.ABLATIONS, "focused", "vanilla")
    assert text.startswith(
        "focused compared with vanilla: +25.0 points of the score"
    ) and "2 seeds x 40 questions" in text.replace("\N{NO-BREAK SPACE}", " ")
    with pytest.raises(ConfigError, match=r"no row 'focussed' \(did you mean focused\?\); there are vanilla, focused"):
        ablations._comparison(schema.ABLATIONS, "vanilla", "focussed")
    with pytest.raises(ConfigError, match="takes two rows, got focused twice"):
        ablations._comparison(schema.ABLATIONS, "focused", "focused")


TINY = """
reference: vanilla
common: {gate.override: true}
rows:
  - {name: base, label: untuned, group: main, method: base, seeds: [1]}
  - {name: vanilla, label: vanilla, group: main, method: vanilla, seeds: [1]}
  - {name: focused, label: focused, group: main, method: focused, overrides: {mask.mode: skip}, seeds: [1]}
  - {name: skip, label: skip, group: mask mode, method: focused, overrides: {mask.mode: skip}, seeds: [1]}
  - {name: reads-less, label: vanilla, group: retrieval, method: vanilla, input: retrieval, seeds: [1]}
"""


TOO_MANY = (
    "  - {name: broken, label: b, group: more, method: vanilla, overrides: {train.batch_examples: 99}, seeds: [1]}\n"
)


class Command:
    """The command in a copy of the project."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.environment = os.environ | {"FOCUS_CACHE": str(project.root.parent / "embeddings")}
        self.command = [sys.executable, "-m", "pipeline.tools.ablations"]

    def write(self, text: str, file: Path = grid.FILE) -> None:
        (self.project.root / file).write_text(text)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*self.command, *arguments],
            cwd=self.project.root,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=500)
        return process.returncode, out, err

    def log(self) -> str:
        found = sorted((self.project.root / ".dvc/tmp/ablations").glob("log*.txt"))
        return "".join(path.read_text() for path in found)


def until(condition: Callable[[], bool], seconds: float = 400) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_free(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.fixture
def hangups() -> Iterator[None]:
    """A terminal that is closed ends what was started from it, even where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangups")
def test_a_grid_that_is_killed_goes_on_where_it_stopped_and_touches_nothing_of_the_users(tmp_path: Path):
    (tmp_path / "toy grid").mkdir()
    project = Project(tmp_path / "toy grid")
    toy = Command(project)
    toy.write(TINY)
    project.commit("grid")
    project.edit({"train": {"steps": 2}})  # an edit that is not committed counts
    (project.root / "notes.txt").write_text("mine\n")  # a file git does not know
    before = project.run("git", "status", "--porcelain").stdout
    params = (project.root / "params.yaml").read_bytes()

    process = toy.start()
    until(lambda: "Running stage 'train@vanilla'" in toy.log())
    busy = (
        r"^error: .dvc/tmp/ablations: another `make ablations`, `make map` or `make example` is running, or a run .* "
        r"\(process (\d+)\); wait for it"
    )
    code, _, err = toy.run()
    assert (code, len(err.splitlines())) == (6, 1) and re.search(busy, err)

    process.kill()  # by force: its run goes on, and nobody else may write where it does
    process.communicate(timeout=10)
    code, _, err = toy.run()
    left = re.search(busy, err)
    assert code == 6 and left is not None
    os.killpg(int(left[1]), signal.SIGINT)
    until(lambda: is_free(project.root / ".dvc/tmp/ablations/lock"))

    (project.root / ".dvc/tmp/ablations/log.txt").unlink()
    process = toy.start()
    until(lambda: "Running stage 'train@vanilla'" in toy.log())
    process.send_signal(signal.SIGHUP)  # its terminal is closed
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert is_free(project.root / ".dvc/tmp/ablations/lock")  # and the run has ended with it
    assert err == "error: interrupted; finished artifacts are whole, run the same command to go on\n"
    assert "evaluate@base" not in out and "1 of 2: evaluate@vanilla" in out

    code, out, _ = toy.run("--list")
    assert code == 0
    assert re.search(r"^base +done, \d+ s each +recorded [\d.]+ \(1\) +base$", out, re.MULTILINE)
    assert re.search(r"^vanilla +0 of 1 seeds done +recorded [\d.]+ \(5\) +vanilla$", out, re.MULTILINE)
    assert re.search(r"^3 distinct runs: 1 done in \d+ (?:s|min), 2 to do, about \d+ (s|min)$", out, re.MULTILINE)

    toy.write(TINY + TOO_MANY)
    code, out, err = toy.run("--jobs", "2")
    assert code == 1
    assert DONE.findall(out) == [("1", "4")]
    assert "of 3: evaluate@base" not in out  # not run again
    assert "    error: train.batch_examples is 99, but the training split has only 19 distinct contexts" in err
    assert err.splitlines()[-1].startswith(
        "error: 1 of the runs failed: evaluate@vanilla gate.override=true train.batch"
    )
    assert "ablations: row broken is left out: seeds 1, which are not done" in out
    table = json.loads((project.root / "reports/ablations.json").read_text())
    assert [row["name"] for row in table["rows"]] == ["base", "vanilla", "focused", "skip", "reads-less"]
    assert table["num_documents"] == 6 and table["num_questions"] == 8 and table["seconds"] > 0
    assert table["num_comparisons"] == 3  # skip is focused under another name
    assert table["rows"][2]["to_reference"] == table["rows"][3]["to_reference"]
    assert (project.root / "reports/ablations.md").read_text() in out

    # The workspace saw the user's two steps, and the user's own files saw nothing.
    assert "train@focused: 2 steps of 4 labelled examples" in toy.log()
    after = project.run("git", "status", "--porcelain").stdout
    assert set(after.splitlines()) - set(before.splitlines()) == {
        " M conf/ablations.yaml", " M reports/ablations.json", "?? reports/ablations.md", "?? reports/runs/",
    }  # fmt: skip
    assert set(before.splitlines()) <= set(after.splitlines())
    assert (project.root / "params.yaml").read_bytes() == params
    assert not (project.root / "dvc.lock").exists() and not (project.root / "models/vanilla").exists()
    assert (project.root / "notes.txt").read_text() == "mine\n"
    assert project.run("git", "stash", "list").stdout == project.run("git", "for-each-ref", "refs/exps").stdout == ""

    # The predictions of the table are those that evaluate wrote, row by row.
    answers = pq.read_table(project.root / "reports/ablations.parquet").to_pylist()
    assert {(row["row"], row["seed"]) for row in answers} == {
        (name, 1) for name in ("base", "vanilla", "focused", "skip", "reads-less")
    }
    assert {row["input"] for row in answers if row["row"] == "reads-less"} == {"retrieval"}
    assert len(answers) == 5 * 16
    assert len(list(tables.scan(schema.ABLATIONS.at(project.root / "reports/ablations.parquet")))) == len(answers)

    # A changed row runs anew, all others stay; then nothing is left to do.
    toy.write(
        TINY.replace(
            "label: skip, group: mask mode, method: focused, overrides: {mask.mode: skip}",
            "label: twice, group: mask mode, method: vanilla, scale: {train.steps: 2}",
        )
    )
    code, out, err = toy.run("--only", "mask mode")
    assert (code, err) == (0, "")
    assert DONE.findall(out) == [("1", "2")] and "evaluate@vanilla gate.override=true train.steps=4 train.seed=1" in out
    code, out, err = toy.run()
    assert (code, err) == (0, "")
    assert DONE.findall(out) == [("4", "4")] and ": evaluate@" not in out

    # An edit of the code of a stage counts, that of the report does not.
    for file, waiting in (("pipeline/report/page.py", 0), ("pipeline/training/losses.py", 3)):
        path = project.root / file
        path.write_text(path.read_text() + "\n# a comment\n")
        assert f"4 distinct runs: {4 - waiting} done" in toy.run("--list")[1], file
        kept_anyway = "3 of these have answers that other code made; KEEP=1 (--keep) counts them"
        assert (kept_anyway in toy.run("--list")[1]) is (waiting == 3), file
        assert "4 distinct runs: 4 done" in toy.run("--list", "--keep")[1], file


TINY_MAP = """
stage: surface
reference: vanilla
common: {gate.override: true, data.surface_documents: [2, 6], data.unlabelled_questions: 0}
rows:
  - {name: vanilla, label: vanilla, group: "16", method: vanilla, overrides: {data.train_questions: 16},
     scale: {train.steps: 2}, seeds: [1], reference: vanilla}
  - {name: focused, label: focused, group: "16", method: focused, overrides: {data.train_questions: 16}, seeds: [1],
     reference: vanilla}
"""


def test_a_map_that_is_stopped_goes_on_and_its_cells_are_those_of_the_kept_answers(tmp_path: Path):
    project = Project(tmp_path)
    toy = Command(project)
    toy.write(TINY_MAP, config.CONF / "map.yaml")
    (project.root / focus_map.RECORD).write_text('{"cells": []}')
    project.commit("map")
    process = toy.start("--grid", "map")
    until(lambda: "Running stage 'train@focused'" in toy.log())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, (out, err)
    assert "1 of 2: surface@vanilla gate.override=true" in out
    assert "train@vanilla: 6 steps of 4 labelled examples" in toy.log()  # the compute of two views in 3 steps
    assert json.loads((project.root / focus_map.RECORD).read_text()) == {"cells": []}

    code, out, err = toy.run("--grid", "map", "--list")
    assert (code, err) == (0, "")
    assert re.search(
        r"^vanilla +done, \d+ s each +not recorded +vanilla data.train_questions=16 train.steps=6$", out, re.M
    )
    assert re.search(r"^2 distinct runs: 1 done in \d+ (?:s|min), 1 to do, about \d+ (?:s|min)$", out, re.M)

    code, out, err = toy.run("--grid", "map")
    assert (code, err) == (0, "")
    assert DONE.findall(out) == [("1", "2")] and "1 of 1: surface@focused" in out
    assert "train@focused: 3 steps of 4 labelled examples" in toy.log() and "Running stage 'evaluate" not in toy.log()
    record = json.loads((project.root / "reports/map.json").read_text())
    assert record["code"].startswith("commit ") and record["seconds"] > 0
    assert [(cell["num_documents"], cell["name_sharing_rate"]) for cell in record["cells"]] == [
        (2, 0.0), (2, 1.0), (6, 0.0), (6, 1.0),
    ]  # fmt: skip
    answers = tables.frame(schema.ABLATIONS.at(project.root / "reports/map.parquet"))
    assert len(answers) == 2 * 4 * 2
    for cell in record["cells"]:
        assert (cell["labelled_questions"], cell["num_seeds"], cell["num_questions"]) == (16, 1, 2)
        where = {"num_documents": cell["num_documents"], "subset": tables.subset_of(cell["name_sharing_rate"])}
        for method in ("vanilla", "focused"):
            kept = answers.filter(row=method, seed=1, **where)
            assert kept["question_id"].n_unique() == len(kept) == 2
            assert cell[method] == pytest.approx(kept["score"].mean())
    assert "in none of 4 cells; the best cell is 16 labelled questions over " in out
    assert (
        project.run("git", "status", "--porcelain").stdout
        == " M reports/map.json\n?? reports/map.md\n?? reports/runs/\n"
    )

    code, out, err = toy.run("--grid", "map")
    assert (code, err) == (0, "")
    assert DONE.findall(out) == [("2", "2")] and ": surface@" not in out
    assert json.loads((project.root / "reports/map.json").read_text()) == record
    listed = toy.run("--grid", "map", "--list")[1]
    assert "recorded: the best cell of each row, in points, of reports/map.json" in listed
