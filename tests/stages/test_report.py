"""The report stage on a made-up run: files, terminal, errors, and the page in a real browser."""

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.runtime import curves
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.stages import report
from tests.conftest import ROOT
from tests.stages import made_results

HOSTILE = "<script>alert(1)</script></style>\"'&|{{ 7 * 7 }}\x1b[31m\x00"
OUTS = (
    "reports/index.html", "reports/table.md", "reports/summary.json", "reports/plots/by_num_documents.csv",
    "reports/plots/by_gold_position.csv",
)  # fmt: skip

Stage = Callable[..., None]


@pytest.fixture(scope="module")
def run_stage() -> Stage:
    def run(root: Path, *arguments: str) -> None:
        """`main` in the folder, as the command line would call it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(root)
            patch.setattr(sys, "argv", ["report", *arguments])
            report.main()

    return run


def lay_out(root: Path, hostile: str = "", **changes: object) -> Path:
    made_results.write(root, hostile=hostile, **changes)
    shutil.copytree(ROOT / "conf", root / "conf")
    params = (ROOT / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("\neval:\n", "\neval:\n  bootstrap_resamples: 100\n"))
    return root


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage) -> Path:
    root = lay_out(tmp_path_factory.mktemp("run"))
    run_stage(root)
    return root


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, run_stage: Stage) -> Path:
    root = lay_out(tmp_path_factory.mktemp("hostile"), HOSTILE)
    run_stage(root)
    return root


def test_the_summary_agrees_with_the_predictions(reported: Path):
    summary = json.loads((reported / "reports/summary.json").read_text())
    rows = list(tables.scan(schema.PREDICTIONS.at(reported / "reports/predictions/focused.parquet")))
    hits = [row["exact_match"] for row in rows if row["input"] == "full" and row["num_documents"] == 12]
    assert summary["exact_match"]["focused"] == pytest.approx(sum(hits) / len(hits), abs=1e-6)
    assert summary["num_examples"] == len(hits) == 60
    assert set(summary["exact_match"]) == {
        f"{method}{given}" for method in ("base", "vanilla", "focused") for given in ("", "_retrieval")
    }
    assert {source["file"] for source in summary["sources"]} == {
        "prepare", "retrieval", "validation", "tokenize", "mask", "analysis", "base", "settings",
    }  # fmt: skip


def test_the_page_has_every_part(reported: Path):
    text = (reported / "reports/index.html").read_text()
    # scores; a real model; length, position; surface; errors; training; retrieval; retrievers; attention, kinds of
    # answers; ablations; map
    training = sum(curve.always and curve.beside is None and "focused" in curve.methods for curve in curves.CURVES)
    assert text.count("<svg") == 1 + 2 + 4 + 12 + 1 + training + 1 + 2 + 4 + 1 + 1 + 2
    assert text.count("<article ") == 40
    assert text.count('<mark class="right">') >= 40 and text.count('<mark class="wrong">') >= 10
    assert text.count(">gold</span>") == 40 and text.count(">kept</span>") > 60
    assert "40 examples with 12 documents in the context" in text
    assert "Versions that trained vanilla and focused" in text
    assert len(text.encode()) < 1_500_000
    assert "8.0 points more than vanilla" in text
    assert "focused learning is above vanilla fine-tuning in 6 of 12 cells" in text
    assert "contrastive.weight" in text  # settings of all stages


def test_without_cells_there_is_no_surface(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "flat"
    shutil.copytree(reported, root)
    for path in (root / "reports/surface").glob("*.json"):
        path.write_text('{"rows": []}')
    run_stage(root)
    text = (root / "reports/index.html").read_text()
    assert "Difficulty of the context" not in text and 'href="#surface"' not in text


def test_another_process_writes_the_same_bytes(reported: Path, tmp_path: Path):
    root = lay_out(tmp_path / "again")
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(ROOT), "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-m", "pipeline.stages.report"]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    for out in OUTS:
        assert (root / out).read_bytes() == (reported / out).read_bytes(), out
    assert done.stdout.startswith("report: 1,080 answers of 6 combinations")
    assert done.stdout.endswith("reports/index.html\n")


def test_show_prints_the_table_and_the_path_and_writes_nothing(
    reported: Path, run_stage: Stage, capsys: pytest.CaptureFixture[str]
):
    before = {path: path.stat().st_mtime_ns for path in reported.rglob("*")}
    run_stage(reported, "--show")
    shown = capsys.readouterr().out
    assert (reported / "reports/table.md").read_text() in shown
    assert shown.endswith(f"report: {(reported / 'reports/index.html').resolve()}\n")
    assert {path: path.stat().st_mtime_ns for path in reported.rglob("*")} == before


def test_the_run_is_logged_and_show_tells_commit_and_times(
    reported: Path, tmp_path: Path, run_stage: Stage, capsys: pytest.CaptureFixture[str]
):
    root = lay_out(tmp_path / "logged")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, encoding="utf-8")
        assert done.returncode == 0, done.stderr
        return done.stdout

    (root / ".gitignore").write_text("/runs/\n")
    run("git", "init", "--quiet")
    run("git", "add", "conf", "params.yaml", ".gitignore")
    run("git", "commit", "--quiet", "--message", "made")
    stage = (sys.executable, "-m", "pipeline.stages.report")
    run(*stage)
    clean = run(*stage, "--show")
    head = run("git", "show", "--no-patch", "--abbrev=12", "--format=%h of %cs", "HEAD").strip()
    assert f"\ncode: commit {head}, the tree is clean\n" in clean
    assert re.search(r"\nlast executed here: report [\d.]+ s; [\d.]+ s in all\n", clean)
    assert len((root / "runs/stages.jsonl").read_text().splitlines()) == 1  # --show is no execution
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "\n# edited\n")
    run_stage(root, "--show")
    assert f"code: commit {head} and changes in 1 file (params.yaml)\n" in capsys.readouterr().out
    # Neither commit nor time is on the page: a run without git wrote the same bytes.
    assert (root / "reports/index.html").read_bytes() == (reported / "reports/index.html").read_bytes()


def test_the_page_names_the_md5_of_what_it_was_made_from(reported: Path):
    text = (reported / "reports/index.html").read_text()
    for path in ("data/documents.parquet", "reports/predictions/focused.parquet", "reports/mask.json"):
        digest = hashlib.md5((reported / path).read_bytes(), usedforsecurity=False).hexdigest()
        assert f"<dt>{path}</dt><dd>{digest}</dd>" in text


def test_the_plots_hold_the_scores_of_the_summary(reported: Path):
    summary = json.loads((reported / "reports/summary.json").read_text())
    for name, groups in (("by_num_documents", "num_documents"), ("by_gold_position", "gold_position")):
        with (reported / f"reports/plots/{name}.csv").open(newline="") as file:
            rows = {row[groups]: row for row in csv.DictReader(file)}
        for row in summary[f"by_{groups}"]:
            column = row["method"] if row["input"] == "full" else f"{row['method']}_{row['input']}"
            assert float(rows[row["group"]][column]) == row["score"]["mean"]


def test_show_without_a_report_says_what_to_run(tmp_path: Path, run_stage: Stage):
    with pytest.raises(ArtifactError, match=r"reports/table.md: no such file.*run `make repro` first"):
        run_stage(tmp_path, "--show")


def test_an_unknown_argument_is_refused(tmp_path: Path, run_stage: Stage):
    with pytest.raises(ConfigError, match="no arguments but --show, got --shw"):
        run_stage(tmp_path, "--shw")


def test_a_new_predictions_file_is_a_new_method(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "more"
    shutil.copytree(reported, root)
    shutil.copy(root / "reports/predictions/focused.parquet", root / "reports/predictions/focused-drop.parquet")
    run_stage(root)
    table = (root / "reports/table.md").read_text()
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert names[-2:] == ["focused-drop", "focused-drop + retrieval"]
    assert "focused-drop" in (root / "reports/index.html").read_text()


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("reports/mask.json", r"reports/mask.json: no such file; run `dvc repro mask` first"),
        ("data/documents.parquet", r"data/documents.parquet: no such file; run `dvc repro prepare` first"),
        ("data/views/masked.parquet", r"masked.parquet: no such file; run `dvc repro mask` first"),
        ("reports/predictions", r"reports/predictions: no predictions; run `dvc repro evaluate` first"),
        ("reports/train", r"reports/train: no such folder; run `dvc repro train` first"),
    ],
)
def test_a_missing_input_is_named_and_the_last_report_stays(
    broken: str, message: str, reported: Path, tmp_path: Path, run_stage: Stage
):
    root = tmp_path / "broken"
    shutil.copytree(reported, root)
    shutil.rmtree(root / broken) if (root / broken).is_dir() else (root / broken).unlink()
    with pytest.raises(ArtifactError, match=message):
        run_stage(root)
    for out in OUTS:
        assert (root / out).read_bytes() == (reported / out).read_bytes()


@pytest.mark.parametrize(
    ("record", "content", "message"),
    [
        ("ablations", None, "no such file; run `git checkout reports/ablations.json` or `make ablations`"),
        ("ablations", "{", r"not an ablation table \(the whole: invalid JSON"),
        ("ablations", '{"rows": [{}]}', r"not an ablation table \(rows.0.name: field required\)"),
        ("map", None, "no such file; run `git checkout reports/map.json` or `make map`"),
        ("map", "{}", r"not a map \(cells: field required\)"),
    ],
)
def test_a_broken_record_is_named(
    record: str, content: str | None, message: str, reported: Path, tmp_path: Path, run_stage: Stage
):
    root = tmp_path / "broken"
    shutil.copytree(reported, root)
    path = root / f"reports/{record}.json"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(ArtifactError, match=f"reports/{record}.json: {message}"):
        run_stage(root)


def test_before_the_grids_have_run_the_page_says_how_to(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "no rows"
    shutil.copytree(reported, root)
    (root / "reports/ablations.json").write_text('{"rows": []}')
    (root / "reports/map.json").write_text('{"cells": []}')
    run_stage(root)
    text = (root / "reports/index.html").read_text()
    assert "<code>make ablations</code> runs the grid" in text and "<code>make map</code> runs the grid" in text


def test_a_damaged_curve_is_named(reported: Path, tmp_path: Path, run_stage: Stage):
    root = tmp_path / "damaged"
    shutil.copytree(reported, root)
    curve = root / "reports/train/focused/plots/metrics/train/loss.tsv"
    curve.write_text(curve.read_text() + "125\tbad\n")
    with pytest.raises(ArtifactError, match=r"focused/plots/metrics/train/loss.tsv: not a curve of step and loss"):
        run_stage(root)


def test_the_terminal_gets_no_escape_sequences_from_data(hostile: Path):
    table = (hostile / "reports/table.md").read_text()
    assert "\x1b" not in table and "\x00" not in table
    assert "alert(1)" in table  # the benchmark's name, as text
