"""What `pip install` installs: every module and file of pipeline/, and the command `focused`."""

import json
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec

import pytest
from ruamel.yaml import YAML

from pipeline.tools import __main__ as cli
from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    if find_spec("setuptools") is None:
        pytest.skip("setuptools is not installed, so no wheel can be built without a network")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, names.split("\0")):  # a build writes beside the sources
        if name.startswith("pipeline/") or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "--wheel-dir", str(out), str(source)], check=True, capture_output=True)
    [found] = out.iterdir()
    return zipfile.ZipFile(found)


def test_the_wheel_holds_every_file_of_the_package(wheel):
    there = {str(path.relative_to(ROOT)) for path in (ROOT / "pipeline").rglob("*") if path.is_file()}
    expected = {name for name in there if "__pycache__" not in name}
    assert any(name.endswith(".j2") for name in expected)
    assert expected == {name for name in wheel.namelist() if name.startswith("pipeline/")}
    [scripts] = [name for name in wheel.namelist() if name.endswith("entry_points.txt")]
    assert wheel.read(scripts).decode().split() == ["[console_scripts]", "focused", "=", "pipeline.tools.__main__:main"]


def test_every_command_is_a_module_with_a_main():
    found = cli.commands()
    assert {"prepare", "train", "evaluate", "plan", "merge", "ablations", "score-predictions"} <= found.keys()
    assert all(find_spec(module) is not None for module in found.values())


def focused(*words, cwd):
    command = [sys.executable, "-m", "pipeline.tools", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)})


def test_a_command_gets_its_arguments_and_leaves_with_its_exit_code(tmp_path):
    helped = focused("merge", "--help", cwd=tmp_path)
    assert helped.returncode == 0 and "--out" in helped.stdout
    outside = focused("chunk", cwd=tmp_path)
    assert outside.returncode == 2
    assert outside.stderr == "error: params.yaml: no such file; run the stage in the repository's root folder\n"


def test_an_unknown_command_is_one_line_with_the_nearest_name(tmp_path):
    wrong = focused("trane", cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("error: focused: there is no command 'trane' (did you mean train?); choose from ")
    assert wrong.stderr.count("\n") == 1


def test_the_files_for_other_tools_name_what_is_there():
    citation, workflow, hooks = (
        YAML(typ="safe").load((ROOT / name).read_text())
        for name in ("CITATION.cff", ".github/workflows/checks.yaml", ".pre-commit-config.yaml")
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    commands = [step["run"] for step in workflow["jobs"]["checks"]["steps"] if "run" in step]
    assert commands and all((ROOT / command).is_file() for command in commands)
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines()}
    assert {hook["entry"].removeprefix("make ") for repo in hooks["repos"] for hook in repo["hooks"]} <= targets
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    dockerfile = ROOT / ".devcontainer" / container["build"]["dockerfile"]
    copied = [line.split()[1:-1] for line in dockerfile.read_text().splitlines() if line.startswith("COPY ")]
    assert copied and all((ROOT / name).is_file() for names in copied for name in names)
