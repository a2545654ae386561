"""Write the tables of docs/settings.md: each setting with its value, what is allowed, and its meaning.

Types and meanings are those of runtime/settings.py, values those of params.yaml and conf/.
"""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pipeline.runtime import config, settings
from pipeline.runtime.settings import SECTIONS, DataFile, Section, Settings

THEMES: dict[str, tuple[str, ...]] = {
    "Data": ("data",),
    "Chunks and retrievers": ("chunk", "retriever", "score", "validation"),
    "Base model and views": ("model", "context", "mask", "gate"),
    "Methods": ("contrastive", "views", "teach", "distill", "attention"),
    "Training, evaluation, report": ("lora", "train", "eval", "analyze", "report"),
}
"""Heading -> sections of params.yaml below it."""
BOUNDS = {"minimum": "≥", "exclusiveMinimum": "above", "maximum": "≤", "exclusiveMaximum": "below"}
"""Bound of a JSON schema -> the word before it."""


def tables(root: Path = Path()) -> str:
    """Return a table for each of THEMES in Markdown, with the values of params.yaml and conf/ below `root`."""
    lines: list[str] = []
    for theme, sections in THEMES.items():
        rows = [("key", "default", "allowed", "meaning"), ("---",) * 4]
        rows += [row for section in sections for row in _rows(section, root)]
        lines += [f"## {theme}", "", *(f"| {' | '.join(row)} |" for row in rows), ""]
    return "\n".join(lines)


def _rows(section: str, root: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each kind of the section, and below it one for each key that no kind above has shown."""
    annotation = Settings.model_fields[section].annotation
    stages = ", ".join(stage for stage, read in SECTIONS.items() if section in read and stage != "report")
    seen: set[tuple[str, ...]] = set()
    meanings: dict[str, str] = {}
    for part in get_args(annotation) or (annotation,):
        kinds = get_args(part.model_fields["kind"].annotation) if "kind" in part.model_fields else ()
        name = f"**{section}**" + (f", {'kind' if len(kinds) == 1 else 'kinds'} {_codes(kinds)}" if kinds else "")
        yield name, "", "", _cell(f"{inspect.getdoc(part)} Read by {stages or 'report'}.")
        values = _values(section, kinds, root)
        for key, allowed, own in _fields(part):
            meaning, value = own or meanings.get(key, ""), values.get(key, "")
            field = (key, allowed, meaning)
            if key != "kind" and (field not in seen or value) and (*field, value) not in seen:
                yield f"`{section}.{key}`", value, allowed, meaning
            seen |= {field, (*field, value)}
            meanings[key] = meaning
    if section == "data":
        yield "**a file**", "", "", _cell(f"{inspect.getdoc(DataFile)} An entry of `data.files` or `data.passages`.")
        yield from ((f"`{key}`", "", allowed, meaning) for key, allowed, meaning in _fields(DataFile))


def _fields(part: type[Section]) -> Iterator[tuple[str, str, str]]:
    """Yield name, allowed values and meaning of each setting of a class, those of its parents included."""
    schema = part.model_json_schema()
    meanings: dict[str, str] = {}
    for parent in reversed(part.__mro__):
        meanings |= _docstrings(parent.__name__)
    for key, found in schema["properties"].items():
        yield key, _cell(_allowed(found)), _cell(meanings.get(key, ""))


def _docstrings(name: str) -> dict[str, str]:
    """Map each field of a class of runtime/settings.py to the docstring below it."""
    found = {}
    for node in ast.parse(inspect.getsource(settings)).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            for field, below in zip(node.body, node.body[1:], strict=False):
                match field, below:
                    case ast.AnnAssign(target=ast.Name(id=key)), ast.Expr(value=ast.Constant(value=str(docstring))):
                        found[key] = docstring
    return found


def _allowed(schema: Mapping[str, Any]) -> str:
    """Say in words which values a JSON schema allows."""
    if "anyOf" in schema:
        return ", or ".join(_allowed(part) for part in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return _codes(schema.get("enum", [schema.get("const")]))
    if "$ref" in schema:
        return "lists of files: `train`, `dev`, `test`"
    kind = schema["type"]
    if kind == "array":
        items = "files" if "$ref" in schema["items"] else _allowed(schema["items"])
        return f"list of {re.sub('^text|number', lambda name: f'{name[0]}s', items)}"
    if kind not in ("integer", "number"):
        return {"string": "text", "boolean": "`true`, `false`", "null": "`null`", "object": "names and values"}[kind]
    limits = [f"{sign} {schema[bound]:.12g}" for bound, sign in BOUNDS.items() if bound in schema]
    return f"{'whole number' if kind == 'integer' else 'number'} {', '.join(limits)}".rstrip()


def _values(section: str, kinds: tuple[str, ...], root: Path) -> dict[str, str]:
    """Return the values of the section's keys: those of params.yaml, of the chosen bundle, or of all bundles if equal.

    Where the profiles differ, all their values are shown, that of the chosen one first.
    """
    params = config.read_yaml(root / config.PARAMS)
    group = section if section in config.GROUPS else "profile"
    chosen, bundles = params["use"][group], {}
    for path in sorted((root / config.CONF / group).glob("*.yaml"), key=lambda path: (path.stem != chosen, path.stem)):
        bundle = config.read_yaml(path)
        if group == "profile":
            bundles[path.stem] = bundle.get(section, {})
        elif (not kinds or bundle["kind"] in kinds) and chosen not in bundles:
            bundles[path.stem] = bundle
    found: dict[str, str] = {}
    for key in {key: None for bundle in bundles.values() for key in bundle}:
        written = {name: _value(bundle[key]) for name, bundle in bundles.items() if key in bundle}
        first = next(iter(written.values()))
        if {first} == {*written.values()}:
            found[key] = first
        elif group == "profile":
            found[key] = f"{first}; {', '.join(f'{name} {value}' for name, value in [*written.items()][1:])}"
    return found | {key: _value(value) for key, value in params.get(section, {}).items()}


def _value(value: Any) -> str:
    """Write a value as YAML in one line; none that is too long for a cell."""
    shown = json.dumps(value).replace('"', "")
    return f"`{shown}`" if len(shown) < 40 else ""


def _codes(values: Any) -> str:
    return ", ".join(f"`{value}`" for value in values)


def _cell(content: str) -> str:
    """Put text on one line of a table, without tags; what stands between backticks stays as it is."""
    code_and_text = re.split(r"(`[^`]*`)", " ".join(content.split()).replace("|", "\\|"))
    return "".join(part if part.startswith("`") else part.replace("<", "\\<") for part in code_and_text)
