"""The graph of dvc.yaml, the modules that a stage imports, directly or not, and the stages that an edit reruns."""

import ast
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.conftest import ROOT

EXEMPT = "pipeline/runtime/"
"""DVC tracks the value of a setting by its key, and names of methods and curves change no result. An edit here reruns
only stages that list the file: the page shows labels and titles."""

CHECK = "settings"
"""The stage that refuses wrong settings. All others stand behind it, and what it writes makes none of them run."""

STAGES: dict[str, Any] = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]


@cache
def imports(path: Path) -> frozenset[str]:
    """Dotted names of everything that one file imports anywhere, also inside functions: modules and names in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def imported(path: Path) -> frozenset[Path]:
    """Our own modules among what one file imports."""
    places = (ROOT.joinpath(*name.split(".")).with_suffix(".py") for name in imports(path))
    return frozenset(place for place in places if place.is_relative_to(ROOT / "pipeline") and place.is_file())


@cache
def closure(path: Path) -> frozenset[str]:
    """Repository paths of everything a file imports, itself included, without pipeline/runtime."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imported(module)
    names = {module.relative_to(ROOT).as_posix() for module in seen}
    return frozenset(name for name in names if not name.startswith(EXEMPT))


def instances() -> dict[str, dict[str, Any]]:
    """Every stage as DVC sees it, foreach written out."""
    found = {}
    for name, stage in STAGES.items():
        if "foreach" not in stage:
            found[name] = stage
            continue
        items = stage["foreach"]
        for key in items:
            value = items[key] if isinstance(items, dict) else key
            found[f"{name}@{key}"] = _filled(stage["do"], key, value)
    return found


def written(stage: dict[str, Any]) -> dict[str, bool]:
    """What a stage writes, outs and metrics, and whether DVC caches it."""
    outs = [*stage.get("outs", []), *stage.get("metrics", [])]
    return dict(
        (next(iter(out)), next(iter(out.values())).get("cache", True)) if isinstance(out, dict) else (out, True)
        for out in outs
    )


def _filled(node: Any, key: str, item: Any) -> Any:
    if isinstance(node, dict):
        return {_filled(name, key, item): _filled(value, key, item) for name, value in node.items()}
    if isinstance(node, list):
        return [_filled(value, key, item) for value in node]
    if isinstance(node, str):
        node = node.replace("${key}", key)
        return re.sub(r"\$\{item(?:\.(\w+))?\}", lambda found: item[found[1]] if found[1] else item, node)
    return node


INSTANCES = instances()


def behind(stages: Iterable[str]) -> set[str]:
    """The stages and everything that reads their outs, directly or not; not CHECK, which any edit of a setting runs."""
    found = set(stages) - {CHECK}
    while True:
        outs = {Path(out) for name in found for out in written(INSTANCES[name])}
        more = {name for name, stage in INSTANCES.items() if any(_reads(stage, out) for out in outs)}
        if more <= found:
            return found
        found |= more


def reruns(file: str) -> set[str]:
    """The stages that an edit of a file can rerun: those that depend on it, and all behind them.

    This is the most that can run: outputs that come out equal stop it earlier.
    """
    path = Path(file)
    values = re.compile(r"\$\{use\.(\w+)\}")  # params of a bundle are read from the file that `use` names
    use = YAML(typ="safe").load((ROOT / "params.yaml").read_text())["use"]
    changed = set()
    for name, stage in INSTANCES.items():
        bundles = [next(iter(param)) for param in stage.get("params", []) if isinstance(param, dict)]
        if _reads(stage, path) or file in (values.sub(lambda found: use[found[1]], bundle) for bundle in bundles):
            changed.add(name)
    return behind(changed)


def _reads(stage: dict[str, Any], path: Path) -> bool:
    """Whether a dep of the stage is the path, holds it, or lies in it."""
    return any(path == dep or dep in path.parents or path in dep.parents for dep in map(Path, stage["deps"]))
