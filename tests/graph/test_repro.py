"""The real thing at toy size: `dvc repro` from nothing, again, after an edit, after the edit is undone."""

import json
import os
import re
import signal
import subprocess
import time
from importlib import metadata
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.runtime import methods
from tests.graph.closure import CHECK, INSTANCES, behind, written
from tests.graph.project import Project

BEFORE_VIEWS = {CHECK, "prepare", "validate", "chunk", "score", "base"}
EVALUATE = [f"{stage}@{method}" for stage in ("evaluate", "surface") for method in methods.METHODS]
LAST = ["analyze", "report"]
VANILLA, FOCUSED, GUIDED = (
    [f"{stage}@{method}" for stage in ("train", "evaluate", "surface")] for method in methods.TRAINED
)
SCORED = ["score", "mask", "gate", *FOCUSED, "teach", *GUIDED, "evaluate@base", "evaluate@vanilla", *LAST]


def test_every_stage_leaves_what_it_declares(project: Project):
    for stage in INSTANCES.values():
        for path in written(stage):
            assert (project.root / path).exists(), path
    summary = json.loads((project.root / "reports/summary.json").read_text())
    assert summary
    assert "focused" in (project.root / "reports/table.md").read_text()


def test_a_second_run_executes_nothing(project: Project):
    start = time.monotonic()
    done = project.run("dvc", "repro")
    seconds = time.monotonic() - start
    assert "Running stage" not in done.stdout
    assert "Data and pipelines are up to date." in done.stdout
    assert seconds < 10  # about 1.5 on an idle machine


def test_metrics_plots_and_experiments_show_the_numbers_of_the_page(project: Project):
    summary = json.loads((project.root / "reports/summary.json").read_text())
    shown = json.loads(project.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    of_training = {f"reports/train/{method}/metrics.json": method for method in methods.TRAINED}
    assert shown.keys() == {"reports/summary.json", *of_training}
    for path, method in of_training.items():  # written at every point, and the last line of the curve at the end
        (loss,) = (project.root / f"reports/train/{method}/plots/metrics/train/loss.tsv").read_text().split()[-1:]
        assert shown[path]["data"]["loss"] == pytest.approx(float(loss), abs=1e-6)
    metrics = shown["reports/summary.json"]["data"]
    page = (project.root / "reports/index.html").read_text()
    table = page[page.index('<table class="main"') : page.index("</table>")]
    for row in summary["longest"]:
        name = row["method"] if row["input"] == "full" else f"{row['method']}_{row['input']}"
        assert metrics["score"][name] == row["score"]["mean"]
        cells = table.partition(f"</span>{name.replace('_', ' + ')}</th>")[2].partition("</tr>")[0]
        assert f'<td class="figure">{100 * row["score"]["mean"]:.1f}<small>' in cells
    experiments = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    recorded = experiments[0]["data"]["metrics"]["reports/summary.json"]["data"]
    assert recorded["score"] == metrics["score"] and recorded["distraction_rate"] == metrics["distraction_rate"]
    plots = json.loads(project.run("dvc", "plots", "show", "--json").stdout)
    assert not plots.get("errors")
    for title, groups in (
        ("Score by number of documents", "num_documents"), ("Score by place of the gold document", "gold_position")
    ):  # fmt: skip
        ((drawn,),) = [plots["data"][title]]
        values = drawn["content"]["data"]["values"]
        assert {(value[groups], value["field"]): float(value[value["field"]]) for value in values} == {
            (row["group"], row["method"] if row["input"] == "full" else f"{row['method']}_{row['input']}"): row[
                "score"
            ]["mean"]
            for row in summary[f"by_{groups}"]
        }


def test_metrics_diff_shows_what_moved_in_the_summary(project: Project):
    path = project.root / "reports/summary.json"
    before = path.read_text()
    moved = json.loads(before)
    moved["score"]["focused"] -= 0.25
    path.write_text(json.dumps(moved))
    try:
        found = json.loads(project.run("dvc", "metrics", "diff", "--json").stdout)
    finally:
        path.write_text(before)
    (changed,) = found["reports/summary.json"].items()
    assert changed[0] == "score.focused" and changed[1]["diff"] == pytest.approx(-0.25)


def test_the_page_names_the_md5_that_the_lock_file_has(project: Project):
    page = (project.root / "reports/index.html").read_text()
    lock = YAML(typ="safe").load((project.root / "dvc.lock").read_text())["stages"]
    digests = {out["path"]: out["md5"] for stage in lock.values() for out in stage["outs"]}
    named = re.findall(r"<dt>([\w/.-]+)</dt><dd>([0-9a-f]{32})</dd>", page)
    assert {path for path, _ in named} >= {"data/examples.parquet", "reports/predictions/focused.parquet"}
    for path, digest in named:
        if path != "models/base/base.json":  # of a folder, whose files DVC counts together
            assert digest == digests[path], path


def test_the_page_names_the_versions_that_trained(project: Project):
    page = (project.root / "reports/index.html").read_text()
    shown = page.partition("<h3>Versions that trained ")[2].partition("</dl>")[0]
    for name in ("numpy", "peft", "torch", "transformers"):
        assert f"<dt>{name}</dt><dd>{metadata.version(name)}</dd>" in shown
    times = project.run("python", "-m", "pipeline.stages.report", "--show").stdout
    assert all(re.search(rf"\b{name} [\d.]+ s", times) for name in INSTANCES)


def test_an_experiment_reruns_only_what_reads_the_key_and_undoing_it_runs_nothing(project: Project):
    before = {path: path.read_bytes() for path in (project.root / "reports").rglob("*") if path.is_file()}
    ran = project.repro("dvc", "exp", "run", "-S", "mask.top_k=3")
    assert ran == [CHECK, "mask", "gate", *FOCUSED, *LAST]
    assert json.loads((project.root / "reports/mask.json").read_text())["top_k"] == 3
    project.edit({"mask": {"top_k": 2}})
    assert project.repro() == []
    for path, content in before.items():
        assert path.read_bytes() == content, path


@pytest.mark.parametrize(
    ("file", "changes", "reruns"),
    [
        ("params.yaml", {"mask": {"mode": "drop"}}, ["mask", "gate", *FOCUSED, *LAST]),
        ("params.yaml", {"contrastive": {"weight": 0.0}}, [*FOCUSED, *LAST]),
        ("params.yaml", {"views": {"masked": 0.5}}, [*FOCUSED, *LAST]),
        ("params.yaml", {"eval": {"retrieval_top_k": 3}}, [*EVALUATE, *LAST]),
        ("params.yaml", {"eval": {"contexts": "longest"}}, [*EVALUATE, *LAST]),
        ("params.yaml", {"context": {"too_long": "cut_end"}}, sorted(set(INSTANCES) - BEFORE_VIEWS)),
        ("params.yaml", {"context": {"engine": "ray"}}, sorted(set(INSTANCES) - BEFORE_VIEWS)),  # as with score.engine
        ("params.yaml", {"validation": {"max_examples": 7}}, ["validate", "gate", *FOCUSED, *LAST]),
        ("params.yaml", {"gate": {"min_gold_retained": 0.4}}, ["gate", *FOCUSED, *LAST]),
        ("params.yaml", {"analyze": {"examples": 5}}, LAST),
        ("params.yaml", {"report": {"title": "Other"}}, ["report"]),
        ("params.yaml", {"lora": {"rank": 4}}, [*VANILLA, *FOCUSED, *GUIDED, *LAST]),
        ("params.yaml", {"train": {"seed": 2}}, [*VANILLA, *FOCUSED, *GUIDED, *LAST]),
        ("params.yaml", {"use": {"retriever": "bm25"}}, SCORED),
        ("params.yaml", {"score": {"engine": "ray"}}, SCORED),  # equal scores stop it after score
        ("params.yaml", {"teach": {"top_k": 1}}, ["teach", *GUIDED, *LAST]),
        ("params.yaml", {"distill": {"weight": 0.5}}, [*GUIDED, *LAST]),
        ("params.yaml", {"attention": {"top_k": 2}}, [*FOCUSED, *GUIDED, *LAST]),
        ("params.yaml", {"chunk": {"words": 100}}, sorted(set(INSTANCES) - {CHECK, "prepare", "validate", "base"})),
        ("params.yaml", {"data": {"seed": 2}}, sorted(set(INSTANCES) - {CHECK, "base"})),
        ("conf/profile/cpu.yaml", {"eval": {"batch_tokens": 4096}}, [*EVALUATE, *LAST]),
        ("conf/profile/gpu.yaml", {"eval": {"batch_tokens": 4096}}, []),
        # prepare may rank distractors by any retriever; its equal outputs and validate's equal metrics stop it
        ("conf/retriever/bm25.yaml", {}, sorted(set(INSTANCES) - {CHECK, "base"})),
    ],
)
def test_what_an_edit_can_rerun(project: Project, file: str, changes: dict[str, Any], reruns: list[str]):
    """Stages whose params changed and all behind them: the most that can run; equal outputs may stop it earlier."""
    original = (project.root / file).read_text()
    try:
        if changes:
            project.edit(changes, file)
        else:
            (project.root / file).write_text(original + "# a comment\n")
        changed = json.loads(project.run("dvc", "status", "--json").stdout)
        assert sorted(behind(changed)) == sorted(reruns)
    finally:
        (project.root / file).write_text(original)


def test_a_moved_bar_runs_the_gate_alone_and_a_bar_too_high_stops_before_focused_training(project: Project):
    project.edit({"gate": {"min_gold_retained": 0.4}})
    try:
        assert project.repro() == [CHECK, "gate", "report"]  # the page shows the setting
        # Of eight word pieces without the title, not every text shows whom it is about.
        changes = {"title": False, "max_tokens": 8}
        project.edit({"gate": {"min_gold_retained": 1.0}, "mask": {"top_k": 1}, "retriever": changes})
        done = project.run("dvc", "repro", "train@focused", check=False)
        assert done.returncode != 0 and "Running stage 'train@focused'" not in done.stdout
        assert "error: reports/mask.json: the top 1 chunks keep a gold chunk of" in done.stdout + done.stderr
    finally:
        project.run("git", "checkout", "params.yaml", "dvc.lock")
        project.run("dvc", "checkout")
    assert project.repro() == []


def outputs(project: Project) -> dict[str, bytes]:
    """What all stages wrote, byte for byte; not what CHECK writes."""
    places = [project.root / path for name, stage in INSTANCES.items() if name != CHECK for path in written(stage)]
    paths = [path for place in places for path in (place, *place.rglob("*")) if path.is_file()]
    return {path.relative_to(project.root).as_posix(): path.read_bytes() for path in paths}


def test_a_wrong_setting_stops_before_anything_is_touched(project: Project):
    before = outputs(project)
    original = (project.root / "params.yaml").read_text()
    try:
        (project.root / "params.yaml").write_text(original.replace("top_k: 2", "top_k: 0", 1))
        done = project.run("python", "-m", "pipeline.runtime.config", check=False)
        assert done.returncode == 2
        assert done.stderr.startswith("error: params.yaml: mask.top_k is 0: input should be greater than")
        assert len(done.stderr.splitlines()) == 1
        repro = project.run("dvc", "repro", check=False)
        assert repro.returncode != 0 and done.stderr in repro.stderr
        assert re.findall(r"Running stage '([\w@]+)'", repro.stdout) == [CHECK]
        assert outputs(project) == before
    finally:
        (project.root / "params.yaml").write_text(original)
    assert project.repro() == []


def test_a_stage_that_fails_or_is_killed_loses_nothing(project: Project):
    """Its earlier outputs are in DVC's cache meanwhile, and the next run or `dvc checkout` brings them back."""
    before = outputs(project)
    project.edit({"chunk": {"words": 100}})
    command, pipe = ["dvc", "repro"], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=project.root, env=project.environment, stdout=pipe, text=True, start_new_session=True
    ) as killed:
        assert killed.stdout is not None
        assert any("Running stage 'chunk'" in line for line in killed.stdout)
        os.killpg(killed.pid, signal.SIGKILL)
    assert not (project.root / "data/chunks.parquet").exists()
    project.run("dvc", "checkout")
    assert outputs(project) == before
    project.run("git", "checkout", "params.yaml")
    assert project.repro() == []
    changes = {"title": False, "max_tokens": 8}  # as in the test of the gate
    project.edit({"gate": {"min_gold_retained": 1.0}, "mask": {"top_k": 1}, "retriever": changes})
    failed = project.run("dvc", "repro", "gate", check=False)
    assert failed.returncode != 0 and "error: reports/mask.json: the top 1 chunks keep" in failed.stderr
    project.run("git", "checkout", "params.yaml", "dvc.lock")
    assert project.repro() == []
    assert outputs(project) == before


def test_a_damaged_artifact_is_named_with_the_way_out(project: Project):
    path = project.root / "data/scores.parquet"
    whole = path.read_bytes()
    masked = (project.root / "data/views/masked.parquet").read_bytes()
    try:
        path.unlink()
        path.write_bytes(whole[: len(whole) // 2])
        done = project.run("python", "-m", "pipeline.stages.mask", check=False)
        assert done.returncode == 4
        assert done.stderr.startswith("error: data/scores.parquet: damaged")
        assert "dvc checkout data/scores.parquet" in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert (project.root / "data/views/masked.parquet").read_bytes() == masked
        assert not list((project.root / "data").rglob("*.tmp"))
    finally:
        path.write_bytes(whole)
