"""The order of the rooms of pipeline/, who opens files, and who imports torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.graph.closure import closure, imported, imports

ROWS = (
    {"stages", "tools"},
    {"report", "analysis"},
    {"data", "training", "evaluation"},
    {"retrieval", "views", "model"},
    {"common"},
    {"runtime"},
)
"""From top to bottom: a room imports itself and the rows below it."""

HEAVY = {"torch", "transformers", "peft", "accelerate", "sentence_transformers", "ray"}

MODULES = sorted((ROOT / "pipeline").rglob("*.py"))


def room(module: Path) -> str:
    return module.relative_to(ROOT / "pipeline").parts[0]


def row(name: str) -> int:
    (found,) = (number for number, rooms in enumerate(ROWS) if name in rooms)
    return found


def test_every_module_has_a_room():
    assert {room(module) for module in MODULES} - {"__init__.py"} == set.union(*ROWS)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(ROOT / "pipeline").as_posix())
def test_imports_run_only_downward(module: Path):
    for target in imported(module):
        assert room(target) == room(module) or row(room(target)) > row(room(module)), (
            f"{module.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        )


def test_no_stage_imports_another():
    for module in MODULES:
        assert not any(room(target) == "stages" and target.name != "__init__.py" for target in imported(module)), module


DISK = {"glob", "pathlib", "shutil", "sqlite3", "tarfile", "tempfile", "zipfile"}
READERS = {
    f"{module}.{name}"
    for module, names in {
        "tables": ("scan", "take", "frame", "side_by_side", "metadata", "write", "writer"),
        "files": ("read_json", "write_json", "write_text", "atomic", "workspace", "put"),
    }.items()
    for name in names
} | {"Tokenizer.from_file", "base_card.read_card"}
"""A module that opens a path imports one of DISK or calls one of READERS."""

OPEN_PATHS = {
    "analysis": {"inputs"},
    "data": {"archives", "download", "jsonl", "load"},
    "evaluation": {"predict", "schema"},  # schema only names the paths of its tables
    "model": {"distributed", "gguf", "loading"},
    "report": {"ablation_table", "focus_map"},
    "retrieval": {"checkpoint", "embedding_cache"},
    "training": {"checkpoint", "dataset", "trainer"},
    "views": {"tokenizer"},
}
"""Modules between the doors (stages, tools) and common/ that open paths. All others take values and return values."""


def test_only_these_modules_open_paths():
    found: dict[str, set[str]] = {}
    for module in MODULES:
        between = room(module) not in {"stages", "tools", "common", "runtime", "__init__.py"}
        calls = {ast.unparse(n.func) for n in ast.walk(ast.parse(module.read_text())) if isinstance(n, ast.Call)}
        if between and ({name.split(".")[0] for name in imports(module)} & DISK or calls & READERS):
            found.setdefault(room(module), set()).add(module.stem)
    assert found == OPEN_PATHS


@pytest.mark.parametrize("stage", ["prepare", "chunk", "tokenize", "mask", "gate", "report"])
def test_light_stages_load_torch_and_ray_only_where_a_setting_asks_for_them(stage: str):
    loaded = f"import sys, pipeline.stages.{stage}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    found = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "pydantic" in found.split() and not set(found.split()) & HEAVY


def test_views_do_not_import_torch():
    for module in MODULES:
        if room(module) == "views":
            for file in closure(module):
                assert not {name.split(".")[0] for name in imports(ROOT / file)} & HEAVY, (module, file)


def test_a_class_name_means_one_thing():
    """No two modules define a class or a capitalised alias of one name."""
    found: dict[str, set[str]] = {}
    for module in MODULES:
        for node in ast.parse(module.read_text()).body:
            if isinstance(node, ast.ClassDef):
                name = node.name
            elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
            else:
                continue
            if name[0].isupper() and not name.isupper():
                found.setdefault(name, set()).add(module.relative_to(ROOT / "pipeline").with_suffix("").as_posix())
    assert {name: modules for name, modules in found.items() if len(modules) > 1} == {}


def test_our_own_modules_keep_their_names():
    """`import x as y` hides where a function comes from; `import x as x` only exports a name and is fine."""
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline"):
                renamed = [alias.name for alias in node.names if alias.asname not in (None, alias.name)]
                assert not renamed, f"{module.relative_to(ROOT)} renames {', '.join(renamed)}"
