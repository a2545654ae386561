"""Which of our own files a stage's module imports, directly or not; DVC cannot know, so a test must."""

import ast
from functools import cache
from pathlib import Path

from tests.conftest import ROOT

EXEMPT = "pipeline/runtime/"
"""Settings, errors, the log of runs. The value of a setting is tracked by its key, so an edit here reruns nothing."""


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
