"""docs/reliability.md is held to the tests: each one that it names is there, and no class of faults is without."""

import ast
import re

from tests.conftest import ROOT

ROWS = re.findall(r"^\| (\d+) \|(.*)\|$", (ROOT / "docs/reliability.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_class_has_tests_and_every_test_is_there():
    assert [int(number) for number, _ in ROWS] == list(range(1, 33))
    for number, row in ROWS:
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", row)
        assert named, number
        for file, name in named:
            tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
            defined = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
            assert name in defined, f"{number}: {file} has no {name}"
