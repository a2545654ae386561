"""Which of our own files a stage's module imports, directly or not; DVC cannot know, so a test must."""

import ast
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

# Types, names and wording, no values: what a setting is set to is tracked by key, so these rerun nothing. The log of
# runs is read by no stage, what `report --show` prints of the tree is in no output.
EXEMPT = {
    "pipeline/runtime/config.py",
    "pipeline/runtime/settings.py",
    "pipeline/runtime/sections.py",
    "pipeline/runtime/bundles.py",
    "pipeline/runtime/errors.py",
    "pipeline/runtime/run_log.py",
    "pipeline/runtime/provenance.py",
}


def imported(path: Path) -> set[Path]:
    """Our own modules that one file imports anywhere, also inside functions."""
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            module = ROOT.joinpath(*name.split("."))
            if name.startswith("pipeline.") and module.with_suffix(".py").is_file():
                found.add(module.with_suffix(".py"))
    return found


@cache
def closure(path: Path) -> frozenset[str]:
    """Repository paths of everything a file imports, itself included, without what is exempt."""
    seen: set[Path] = set()
    waiting = [path]
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += imported(module)
    return frozenset({module.relative_to(ROOT).as_posix() for module in seen} - EXEMPT)
