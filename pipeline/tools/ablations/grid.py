"""The ablation grid as it is written down: conf/ablations.yaml, checked."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from pipeline.common.methods import DISTILL, FOCUSED
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, did_you_mean
from pipeline.runtime.settings import Name, Positive, PositiveFloat, Section

FILE = config.CONF / "ablations.yaml"
SEED = "train.seed"

Value = bool | int | float | str | None
Overrides = dict[str, Value | list[Value]]


class Row(Section):
    """One line of the table."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    label: Name
    group: Name
    method: Name
    """A target of evaluate."""
    input: Literal["full", "retrieval", "longbench"] = "full"
    """Whose answers of the run are taken."""
    overrides: Overrides = Field(default_factory=dict)
    """Dotted key of params.yaml -> value."""
    scale: dict[str, PositiveFloat | Positive] = Field(default_factory=dict)
    """Dotted key of a number -> factor on its resolved value."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    reference: Name | None = None
    """Name of the row that this one is compared with; null: that of the file."""


class Grid(Section):
    """The whole file."""

    reference: Name
    """Name of the row that the others are compared with, where they name none themselves."""
    common: Overrides = Field(default_factory=dict)
    """Overrides of every row; a row's own go first."""
    rows: Annotated[list[Row], Field(min_length=1)]

    @model_validator(mode="after")
    def _names_are_one_rows(self) -> Self:
        names = [row.name for row in self.rows]
        problems = [f"the name {name} stands {num} times" for name, num in Counter(names).items() if num > 1]
        named = [("", self.reference), *((f"row {row.name}: ", row.reference or self.reference) for row in self.rows)]
        problems += [
            f"{where}reference is {name!r}, which is no row's name{did_you_mean(name, names)}"
            for where, name in named
            if name not in names and (not where or name != self.reference)
        ]
        for row in self.rows:
            where = f"row {row.name}"
            problems += [f"{where}: {SEED} is set by `seeds`" for keys in (row.overrides, row.scale) if SEED in keys]
            problems += [f"{where}: {key} is in overrides and in scale" for key in row.overrides.keys() & row.scale]
            problems += [f"{where}: seed {seed} twice" for seed, num in Counter(row.seeds).items() if num > 1]
        problems += [f"common: {SEED} is set by `seeds`"] * (SEED in self.common)
        if problems:
            raise ValueError(f"\n{FILE}: ".join(problems))
        return self


def load(root: Path = Path()) -> Grid:
    """Read conf/ablations.yaml below `root`.

    Raises:
        ConfigError: with every problem of the file, one line each.
    """
    found = config.read_yaml(root / FILE)
    try:
        grid = Grid.model_validate(found)
    except ValidationError as error:
        lines = dict.fromkeys(_describe(item, found) for item in error.errors())  # one for each kind it might have been
        raise ConfigError("\n".join(lines)) from None
    return grid


def choose(grid: Grid, only: Sequence[str]) -> list[Row]:
    """The rows of these groups and names and those that they are compared with; all of them where `only` is empty.

    Raises:
        ConfigError: a name is neither, with those that there are.
    """
    groups, names = list(dict.fromkeys(row.group for row in grid.rows)), [row.name for row in grid.rows]
    if unknown := [name for name in only if name not in (*groups, *names)]:
        hints = ", ".join(f"{name!r}{did_you_mean(name, [*groups, *names])}" for name in unknown)
        raise ConfigError(
            f"{FILE} has no group or row {hints}; groups are {', '.join(groups)}, rows are {', '.join(names)}"
        )
    chosen = [row for row in grid.rows if not only or row.group in only or row.name in only]
    wanted = {row.name for row in chosen} | {row.reference or grid.reference for row in chosen}
    return [row for row in grid.rows if row.name in wanted]


def claimed(grid: Grid) -> list[str]:
    """Names of the rows that the claims are about: the first focused one that reads the full context, and the first of
    distill. They are chosen by their place in the file and never by their figures."""
    rows = [row for row in grid.rows if row.input == "full"]
    firsts = (next((row.name for row in rows if row.method == method), None) for method in (FOCUSED, DISTILL))
    return [name for name in firsts if name is not None]


def _describe(item: Any, found: Mapping[str, Any]) -> str:
    """One pydantic error as one clause of the message."""
    path = list(item["loc"])
    if not path:
        return f"{FILE}: {item['ctx']['error']}"
    where, known = str(FILE), Grid.model_fields
    if path[0] == "rows" and len(path) > 1:
        row = found["rows"][path[1]]
        name = row.get("name") if isinstance(row, dict) else None
        where, known, path = f"{FILE}: row {name or path[1] + 1}", Row.model_fields, path[2:]
    if path[:1] == ["overrides"] and len(path) > 1:
        key, value = path[1], found["rows"][item["loc"][1]]["overrides"][path[1]]
        hint = (
            f"; for a key below it write `{key}.{next(iter(value), 'key')}: value`" if isinstance(value, dict) else ""
        )
        return f"{where}: overrides.{key} is {value!r}, allowed are a value and a list of values{hint}"
    key = ".".join(map(str, path))
    if item["type"] == "extra_forbidden":
        return f"{where}: {key} is not a key{did_you_mean(path[-1], known)}; allowed are {', '.join(known)}"
    if item["type"] == "missing":
        return f"{where}: {key} is missing"
    message = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    return f"{where}: {key + ' is ' if key else ''}{item['input']!r}: {message}"
