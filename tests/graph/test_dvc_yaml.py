"""dvc.yaml is held to the code: a dep or param that is missing there means stale results that nobody notices."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.runtime import curves, methods
from pipeline.runtime.settings import SECTIONS, Settings
from tests.conftest import ROOT
from tests.graph.closure import CHECK, EXEMPT, INSTANCES, STAGES, behind, closure, reruns, written

NAME_TABLES = {"tables": tables, "schema": schema}
SECTIONS_OF_BUNDLES = {"data", "retriever", "model"}
DEFINE_TABLES = ("pipeline/common/tables.py", "pipeline/evaluation/schema.py")
NOT_READ = {  # paths that the modules of a stage, or of one of its instances, name for others
    "train@vanilla": {"data/views/masked.parquet", "data/teachings.parquet", "data/scores.parquet"},
    "train@focused": {"data/teachings.parquet"},
    "train@guided": {"data/views/masked.parquet"},
    "evaluate": {"models/base/tokenizer.json"},  # base.json, which is a dep, has its digest
    "surface": {"models/base/tokenizer.json", "data/scores.parquet"},  # asks over full contexts only
    "analyze": {"data/examples.parquet"},  # reads the answers of reports/predictions
}


def sections(name: str) -> set[str]:
    """The sections that a stage may read; the instances of evaluate and surface share an entry."""
    return set(SECTIONS.get(name) or SECTIONS[name.partition("@")[0]])


def test_the_stages_are_these_in_this_order():
    assert list(INSTANCES) == [
        CHECK, "prepare", "chunk", "score", "validate", "base", "tokenize", "mask", "gate", "teach", "train@vanilla",
        "train@focused", "train@guided", "evaluate@base", "evaluate@vanilla", "evaluate@focused", "evaluate@guided",
        "surface@base", "surface@vanilla", "surface@focused", "surface@guided", "analyze", "report",
    ]  # fmt: skip


def test_every_stage_stands_behind_the_check_of_the_settings():
    """DVC removes the outputs of a stage that it runs, and stops at the first stage that fails."""
    assert INSTANCES[CHECK]["params"] == [{"params.yaml": None}] and "conf" in INSTANCES[CHECK]["deps"]
    (checked,) = written(INSTANCES[CHECK])
    first = [name for name, stage in INSTANCES.items() if checked in stage["deps"]]
    assert behind(first) == set(INSTANCES) - {CHECK}


@pytest.mark.parametrize("name", [name for name in INSTANCES if name != CHECK])
def test_params_are_the_sections_the_stage_may_read(name: str):
    declared = sections(name)
    plain = {param for param in INSTANCES[name]["params"] if isinstance(param, str)}
    files = {
        file: keys for param in INSTANCES[name]["params"] if isinstance(param, dict) for file, keys in param.items()
    }
    assert plain == declared
    expected: dict[str, Any] = {f"conf/{s}/${{use.{s}}}.yaml": None for s in declared & SECTIONS_OF_BUNDLES}
    assert ("conf/retriever" in INSTANCES[name]["deps"]) == (name in ("prepare", "validate"))  # read any
    if in_profile := sorted(declared & {"train", "teach", "eval"}):
        expected["conf/profile/${use.profile}.yaml"] = in_profile
    assert files == expected


@pytest.mark.parametrize("stage", [name for name in STAGES if name != CHECK])
def test_a_stage_reads_exactly_the_sections_it_declares(stage: str):
    """A section that is read without a param gives stale results; a param that is not read reruns the stage in vain."""
    read = set()
    modules = [f"stages/{stage}.py", *(["training/objective.py"] if stage == "train" else [])]  # has a case per method
    for module in modules:
        for node in ast.walk(ast.parse((ROOT / "pipeline" / module).read_text())):
            if isinstance(node, ast.Attribute) and node.attr in Settings.model_fields:
                value = ast.unparse(node.value)
                if value == "settings" or value.startswith("config.load("):
                    read.add(node.attr)
    declared = set.union(*(sections(name) for name in INSTANCES if name.partition("@")[0] == stage))
    assert read == declared or (stage == "report" and read < declared)  # the page prints all settings


@pytest.mark.parametrize("name", INSTANCES)
def test_deps_hold_every_module_the_stage_imports(name: str):
    """Each module lies in a listed room or is listed itself, and nothing of pipeline/ is listed in vain."""
    module = ROOT / "pipeline/stages" / f"{name.partition('@')[0]}.py"
    listed = [dep for dep in INSTANCES[name]["deps"] if dep.startswith("pipeline/") and not dep.startswith(EXEMPT)]
    read = {
        file: [dep for dep in listed if file == dep or ((ROOT / dep).is_dir() and file.startswith(f"{dep}/"))]
        for file in closure(module)
    }
    assert [file for file, deps in read.items() if len(deps) != 1] == []
    assert set(listed) == {dep for deps in read.values() for dep in deps}
    assert f"pipeline.stages.{module.stem}" in INSTANCES[name]["cmd"]


def test_dvc_yaml_stays_readable():
    assert len((ROOT / "dvc.yaml").read_text().splitlines()) <= 400


def artifacts(module: Path) -> set[str]:
    """The paths below data, models and reports that a module's code names, as Path("...") or as a Table."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Path" and node.args:
            found.add(str(getattr(node.args[0], "value", "")))
        elif isinstance(node, ast.Attribute) and (room := NAME_TABLES.get(ast.unparse(node.value))):
            table = getattr(room, node.attr, None)  # a parameter may have the name of a room
            found |= {str(table)} if isinstance(table, tables.Table) else set()
    return {path for path in found if path.split("/")[0] in ("data", "models", "reports")}


@pytest.mark.parametrize("name", INSTANCES)
def test_deps_hold_every_artifact_the_stage_names(name: str):
    """Every artifact named by the stage or a module it imports is a dep or an out, or lies in one, or holds one."""
    known = [Path(dep) for dep in INSTANCES[name]["deps"]] + [Path(out) for out in written(INSTANCES[name])]
    stage = name.partition("@")[0]
    for file in closure(ROOT / f"pipeline/stages/{stage}.py") - {*DEFINE_TABLES}:
        for path in map(Path, artifacts(ROOT / file) - NOT_READ.get(name, set()) - NOT_READ.get(stage, set())):
            assert any(path == k or k in path.parents or path in k.parents for k in known), (file, path)


def test_focused_training_alone_waits_for_the_gate():
    (verdict,) = written(INSTANCES["gate"])
    assert [name for name, stage in INSTANCES.items() if verdict in stage["deps"]] == ["train@focused"]


def test_every_command_is_quoted_for_no_shell():
    for name, stage in INSTANCES.items():
        assert re.fullmatch(r"python -m pipeline\.stages\.[a-z]+( [a-z]+)?", stage["cmd"]), name


def test_the_run_cache_keeps_every_stage():
    """DVC leaves a stage out of its run cache for one uncached out that is no metric: an edit undone would run."""
    for name, stage in INSTANCES.items():
        uncached = {path for path, cached in written({"outs": stage["outs"]}).items() if not cached}
        assert not uncached, name
    assert written(INSTANCES["report"])["reports/summary.json"] is False


def test_plots_read_what_stages_write_and_show_every_method():
    """So `dvc plots` draws the numbers of the page; a method that is added to evaluate must be added to them."""
    plots = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"]
    outs = [path for stage in INSTANCES.values() for path in written(stage)]
    methods = [name.partition("@")[2] for name in INSTANCES if name.startswith("evaluate@")]
    for plot in plots:
        (drawn,) = plot.values()
        for path, columns in drawn["y"].items():
            assert any(path.startswith(f"{out}/") for out in outs), path
            if path.startswith("reports/plots/"):
                assert columns == [f"{method}{given}" for method in methods for given in ("", "_retrieval")], path


def test_plots_of_training_are_those_of_the_table_of_curves():
    plots = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["plots"]
    drawn = {title: plot["y"] for entry in plots for title, plot in entry.items() if plot["x"] == "step"}
    expected: dict[str, dict[str, str]] = {}
    title_of = {curve.name: curve.title for curve in curves.CURVES}
    for curve in curves.CURVES:
        if curve.always:
            paths = {f"reports/train/{m}/plots/metrics/train/{curve.name}.tsv": curve.name for m in curve.methods}
            expected.setdefault(title_of[curve.beside or curve.name], {}).update(paths)
    assert drawn == expected


VANILLA, FOCUSED, GUIDED = (
    {f"{stage}@{method}" for stage in ("train", "evaluate", "surface")} for method in methods.TRAINED
)
ASKED = {f"{stage}@{method}" for stage in ("evaluate", "surface") for method in methods.METHODS}


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("pipeline/runtime/settings.py", set()),
        ("pipeline/runtime/curves.py", {"report"}),  # the title of a curve
        ("pipeline/runtime/methods.py", {"report"}),  # the colour of a method
        ("pipeline/tools/plan/forecast.py", set()),
        ("conf/ablations.yaml", set()),
        ("pipeline/report/page.py", {"report"}),
        ("pipeline/report/templates/page.html.j2", {"report"}),
        ("pipeline/stages/report.py", {"report"}),
        ("pipeline/analysis/attention.py", {"analyze", "report"}),
        ("pipeline/evaluation/schema.py", {*ASKED, "analyze", "report"}),  # a new column of predictions
        ("pipeline/evaluation/metrics.py", {*ASKED, "analyze", "report"}),
        ("pipeline/evaluation/bootstrap.py", {"validate", "gate", *FOCUSED, *ASKED, "analyze", "report"}),
        ("pipeline/runtime/trackers.py", set()),
        ("pipeline/training/trainer.py", {*VANILLA, *FOCUSED, *GUIDED, "analyze", "report"}),
        ("pipeline/stages/teach.py", {"teach", *GUIDED, "analyze", "report"}),
        ("pipeline/stages/mask.py", {"mask", "gate", *FOCUSED, "analyze", "report"}),
        ("pipeline/data/benchmarks/nq.py", set(INSTANCES) - {CHECK, "base"}),
        ("conf/data/nq.yaml", set()),  # not the chosen bundle
        ("conf/data/bios.yaml", set(INSTANCES) - {CHECK, "base"}),
    ],
)
def test_an_edit_reruns_only_what_reads_the_file(file: str, expected: set[str]):
    assert (ROOT / file).is_file()
    assert reruns(file) == expected


def test_only_the_rooms_behind_training_retrain():
    """An edit elsewhere must not cost hours: reports, statistics, planning and settings retrain nothing."""
    retraining = {
        path.relative_to(ROOT / "pipeline").parts[0]
        for path in (ROOT / "pipeline").rglob("*.py")
        if "train@vanilla" in reruns(path.relative_to(ROOT).as_posix())
    }
    assert retraining == {"common", "data", "model", "retrieval", "stages", "training", "views"}
