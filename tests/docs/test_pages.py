"""The pages for people: every link, file, setting, command and variable that they name exists, and they stay short."""

import ast
import fnmatch
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from ruamel.yaml import YAML

from pipeline.runtime import config, methods
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.settings import Settings
from tests.conftest import ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "input/README.md", "models/tiny-base/README.md"]
PAGES += sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))
MOST_LINES = {"README.md": 150}
"""Of a page; any other page of docs/ has at most 200."""
GONE = {"benchmarks/variants.py"}
"""Files that docs/first-recipe.md names, because it is history."""

FOLDERS = "pipeline|conf|tests|docs|benchmarks|examples|models|reports|data|input"
SUFFIXES = {"json", "jsonl", "md", "parquet", "py", "safetensors", "tsv", "yaml"}


@cache
def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@cache
def in_git() -> frozenset[str]:
    """Name the files of the working tree that git has or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return frozenset(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines())


@cache
def ignored(name: str) -> bool:
    """Tell whether git ignores the file or folder: an output of the graph, or what a command writes."""
    command = ["git", "check-ignore", name, f"{name}/"]
    return bool(subprocess.run(command, cwd=ROOT, capture_output=True).stdout)


def exists(name: str) -> bool:
    """Tell whether a path is there or is written by a command; `<name>` and `*` stand for any name."""
    if "<method>" in name:
        return all(exists(name.replace("<method>", method)) for method in methods.METHODS if method != methods.BASE)
    if "<" in name or "*" in name:
        return bool(fnmatch.filter(in_git(), re.sub(r"<[^>]*>", "*", name)))
    name = name.rstrip("/")
    return (
        name in in_git() | GONE
        or any(found.startswith(f"{name}/") for found in in_git())
        or ignored(f"{name}/")
        or ignored(name)
    )


def code(text: str) -> Iterator[str]:
    """Yield the code of a page: each line of its blocks, and each span between backticks."""
    blocks = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for block in blocks.findall(text):
        yield from block.splitlines()
    yield from re.findall(r"`([^`]+)`", blocks.sub("", text))


def anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    found: list[str] = []
    for heading in re.findall(
        r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE
    ):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return set(found)


def wrong_links(page: str, text: str) -> Iterator[str]:
    prose = re.sub(r"^```.*?^```|`[^`]+`", "code", text, flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r'\]\(([^)\s]+)\)|src="([^"]+)"', prose):
        path, _, anchor = "".join(target).partition("#")
        if path.startswith("http"):
            continue
        found = (ROOT / page).parent / path if path else ROOT / page
        if not found.exists():
            yield f"link to {path}"
        elif anchor and anchor not in anchors(text if not path else found.read_text(encoding="utf-8")):
            yield f"anchor {path}#{anchor}"


def wrong_names(text: str) -> Iterator[str]:
    """Yield files and modules that are not there."""
    for word in (word for line in code(text) for word in re.split(r"[\s,;()=\"']+", line)):
        module, _, attributes = word.partition(".")
        if re.fullmatch(r"\w+(/\w+)+", module) and (ROOT / f"pipeline/{module}.py").is_file():
            names = {
                node.name for node in ast.walk(ast.parse(read(f"pipeline/{module}.py")))
                if isinstance(node, ast.FunctionDef | ast.ClassDef)
            }  # fmt: skip
            if attributes != "py" and not set(filter(None, attributes.split("."))) <= names:
                yield f"name {word}"
        elif "::" in word:
            continue  # a test: tests/graph/test_reliability.py looks for them
        elif re.match(rf"(\.\./)?({FOLDERS})/", word):
            if not exists(word.removeprefix("../").rstrip(".:")):
                yield f"file {word}"
        elif re.fullmatch(r"\w+\.(py|yaml)", word) and not any(Path(name).name == word for name in in_git() | GONE):
            yield f"file {word}"


@cache
def settings() -> frozenset[str]:
    """Return every setting as section.key, of all kinds of a section."""
    found = {f"use.{group}" for group in config.GROUPS}
    for section, field in Settings.model_fields.items():
        for part in get_args(field.annotation) or (field.annotation,):
            found |= {f"{section}.{key}" for key in part.model_fields}
    return frozenset(found)


def wrong_settings(text: str) -> Iterator[str]:
    """Yield settings that do not exist, and values that the settings refuse."""
    sections = {name.partition(".")[0] for name in settings()}
    for line in code(text):
        for section, key in re.findall(r"(?<![\w./])([a-z]+)\.([a-z]\w*)", line):
            if section in sections and key not in SUFFIXES and f"{section}.{key}" not in settings():
                yield f"setting {section}.{key}"
        given = re.fullmatch(r"([a-z]+)\.([a-z_]+): ([^{]+)", line)
        if given and f"{given[1]}.{given[2]}" in settings():
            yield from refused({given[1]: {given[2]: YAML(typ="safe").load(given[3])}})
        elif re.fullmatch(r"[a-z]+: \{.*\}", line):
            yield from unknown(YAML(typ="safe").load(line))
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from unknown(YAML(typ="safe").load(block))


def unknown(values: dict[str, dict[str, Any]]) -> Iterator[str]:
    found = [f"setting {section}.{key}" for section in values for key in values[section]]
    yield from (key for key in found if key.removeprefix("setting ") not in settings())
    if "use" in values:
        yield from refused(values)


def refused(values: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yield what config.resolve says of params.yaml with these values laid over it."""
    if "use" not in values and values.keys() & {"data", "retriever"}:  # of a kind that is not known here
        return
    params = config.read_yaml(ROOT / config.PARAMS)
    try:
        config.resolve(params | {section: params.get(section, {}) | given for section, given in values.items()}, ROOT)
    except ConfigError as error:
        yield f"value {error}"


def wrong_commands(text: str) -> Iterator[str]:
    makefile = read("Makefile")
    graph = config.read_yaml(ROOT / "dvc.yaml")["stages"]
    stages = set(graph) | {f"{name}@{key}" for name, stage in graph.items() for key in stage.get("foreach", ())}
    for line in code(text):
        for target, variables in re.findall(r'\bmake ([a-z][a-z-]*)((?: [A-Z_]+=(?:"[^"]*"|\S+))*)', line):
            if not re.search(rf"^{target}:", makefile, re.MULTILINE):
                yield f"make {target}"
            for name in re.findall(r"(\w+)=", variables):
                if f"$({name})" not in makefile and f"$(value {name})" not in makefile:
                    yield f"make {name}="
        for module, rest in re.findall(r"-m ((?:pipeline|tests)\.[\w.]+)(.*)", line):
            yield from wrong_flags(module.replace(".", "/"), rest)
        for module, rest in re.findall(r"python (benchmarks/\w+)\.py(.*)", line):
            if f"{module}.py" not in GONE:
                yield from wrong_flags(module, rest)
        for words in re.findall(r"\bdvc (?:repro|commit|exp run)\b((?: \S+)*)", line):
            for word in words.split():
                if re.fullmatch(r"[a-z]+(@[a-z]+)?", word) and word not in stages:
                    yield f"stage {word}"


def wrong_flags(module: str, rest: str) -> Iterator[str]:
    """Yield the module if there is none, and each option behind it that no file of it knows."""
    files = [name for name in in_git() if name == f"{module}.py" or name.startswith(f"{module}/")]
    files += ["benchmarks/measuring.py"] if module.startswith("benchmarks/") else []
    if not files or (f"{module}.py" not in files and f"{module}/__main__.py" not in files):
        yield f"module {module}"
    for flag in re.findall(r"(?<!\S)--[a-z][\w-]*", rest.partition("|")[0].partition("#")[0]):
        if flag != "--help" and not any(f'"{flag}"' in read(name) or f'"{flag[2:]}"' in read(name) for name in files):
            yield f"option {flag} of {module}"


def wrong_variables(text: str) -> Iterator[str]:
    sources = "".join(read(name) for name in in_git() if re.match(r"pipeline/.*\.py|dvc.yaml|Makefile", name))
    yield from (f"variable {name}" for name in re.findall(r"\bFOCUS_[A-Z_]+\b", text) if name not in sources)


def faults(page: str, text: str) -> list[str]:
    return sorted({
        *wrong_links(page, text), *wrong_names(text), *wrong_settings(text), *wrong_commands(text),
        *wrong_variables(text),
    })  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_is_there(page: str):
    assert faults(page, read(page)) == []


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("[a](docs/nothing.md)", "link to docs/nothing.md"),
        ('<img src="docs/nothing.svg">', "link to docs/nothing.svg"),
        ("# Here\n[a](#there)", "anchor #there"),
        ("[a](docs/bases.md#there)", "anchor docs/bases.md#there"),
        ("`pipeline/views/layouts.py`", "file pipeline/views/layouts.py"),
        ("`reports/sumary.json`", "file reports/sumary.json"),
        ("`models/<method>/x`, `tests/no/*.py`", "file tests/no/*.py"),
        ("`conf/model/<name>.yml`", "file conf/model/<name>.yml"),
        ("`layouts.py`", "file layouts.py"),
        ("`views/layout.Layouts`", "name views/layout.Layouts"),
        ("`mask.topk: 1`", "setting mask.topk"),
        ("```\ndvc exp run -S mask.topk=1\n```", "setting mask.topk"),
        ("`mask: {topk: 1}`", "setting mask.topk"),
        ("```yaml\nmask:\n  topk: 1\n```", "setting mask.topk"),
        ("`use.model: mistrals`", "value params.yaml: use.model: no bundle 'mistrals'"),
        ("```yaml\nuse: {model: mistrals}\n```", "value params.yaml: use.model: no bundle 'mistrals'"),
        ("`mask.mode: dropped`", "value params.yaml: mask.mode is 'dropped'"),
        ("`make rerpo`", "make rerpo"),
        ('`make merge METHODS="x"`', "make METHODS="),
        ("`python -m pipeline.tools.plans`", "module pipeline/tools/plans"),
        ("```\npython -m pipeline.tools.merge x --to y\n```", "option --to of pipeline/tools/merge"),
        ("`python benchmarks/steps.py`", "module benchmarks/steps"),
        ("`python benchmarks/step.py --round 5`", "option --round of benchmarks/step"),
        ("`dvc repro train@focus`", "stage train@focus"),
        ("`FOCUS_DEVISE`", "variable FOCUS_DEVISE"),
    ],
)
def test_a_wrong_name_is_found(text: str, fault: str):
    assert any(found.startswith(fault) for found in faults("README.md", text))


def test_pages_are_short_and_each_is_linked_from_the_readme():
    long = {page: read(page).count("\n") for page in PAGES if page == "README.md" or page.startswith("docs/")}
    assert {page: lines for page, lines in long.items() if lines > MOST_LINES.get(page, 200)} == {}
    linked = set(re.findall(r"\]\((docs/\w[\w-]*\.md)", read("README.md")))
    assert {page for page in PAGES if page.startswith("docs/")} <= linked


def test_make_help_lists_every_target_in_a_group_in_one_line():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = set(re.findall(r"^  make ([a-z-]+) +\S", shown, re.MULTILINE))
    [phony] = re.findall(r"^\.PHONY: (.*)$", read("Makefile"), re.MULTILINE)
    assert targets == set(phony.split()) and targets <= set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    assert re.findall(r"^([A-Z]\w+)$", shown, re.MULTILINE) == ["Start", "Run", "Measure", "Share", "Develop"]
    assert max(map(len, shown.splitlines())) <= 120
