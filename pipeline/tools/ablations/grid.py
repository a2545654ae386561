"""A grid, such as conf/ablations.yaml, checked, and the run behind each row and seed.

A run is identified by a digest of everything its answers depend on: the stages of dvc.yaml up to <stage>@<method>, the
bytes of their code and of `input/`, and the resolved settings that these stages read. Rows with equal settings share a
run. Any edit of that code changes the digest; the run's name stays, so that answers of older code can be found.
"""

import copy
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, did_you_mean
from pipeline.runtime.methods import METHODS
from pipeline.runtime.settings import Name, Positive, PositiveFloat, Section, Settings

FILE = config.CONF / "ablations.yaml"
SEED, LABELLED = "train.seed", "data.train_questions"

Value = bool | int | float | str | None
Overrides = dict[str, Value | list[Value]]


class GridRow(Section):
    """One row of the file, which is one line of the table."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    label: Name
    group: Name
    method: Name
    """A target of the grid's stage."""
    input: Literal["full", "retrieval", "longbench"] = "full"
    """The input whose answers are measured; a run answers all of them."""
    overrides: Overrides = Field(default_factory=dict)
    """Dotted key of params.yaml -> value."""
    scale: dict[str, PositiveFloat | Positive] = Field(default_factory=dict)
    """Dotted key of a number -> factor on its resolved value."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(min_length=1)]
    reference: Name | None = None
    """Name of the row that this one is compared with; null: the reference of the file."""


class AblationGrid(Section):
    """The whole file."""

    stage: Literal["evaluate", "surface"] = "evaluate"
    """Stage that answers the questions. surface: rows are compared in every condition of its contexts."""
    contexts: Literal["longest", "each"] = "longest"
    """What is measured: the longest contexts, or, in a table for each, contexts of every number of documents."""
    reference: Name
    """Name of the row that every row without a reference of its own is compared with."""
    claims: list[Name] = Field(default_factory=list)
    """Names of the rows that the claims are about: chosen here, and never by their figures."""
    common: Overrides = Field(default_factory=dict)
    """Overrides of every row; a row's own override wins."""
    rows: Annotated[list[GridRow], Field(min_length=1)]
    _file: Path = PrivateAttr(FILE)

    @property
    def name(self) -> str:
        """Name of the file, and of the record."""
        return self._file.stem

    @model_validator(mode="after")
    def _names_fit_together(self) -> Self:
        names = [row.name for row in self.rows]
        problems = [f"the name {name} stands {num} times" for name, num in Counter(names).items() if num > 1]
        named = [("", self.reference), *((f"row {row.name}: ", row.reference) for row in self.rows if row.reference)]
        problems += [
            f"{where}reference is {name!r}, which is no row's name{did_you_mean(name, names)}"
            for where, name in named
            if name not in names
        ]
        problems += [
            f"claims has {name!r}, which is no row's name{did_you_mean(name, names)}"
            for name in self.claims
            if name not in names
        ]
        for row in self.rows:
            where = f"row {row.name}"
            problems += [f"{where}: {SEED} is set by `seeds`" for keys in (row.overrides, row.scale) if SEED in keys]
            problems += [f"{where}: {key} is in overrides and in scale" for key in row.overrides.keys() & row.scale]
            problems += [f"{where}: seed {seed} twice" for seed, num in Counter(row.seeds).items() if num > 1]
            if self.stage == "surface":
                problems += [f"{where}: stage surface asks over full contexts alone"] * (row.input != "full")
                problems += [f"{where}: overrides lack {LABELLED}, an axis of the map"] * (
                    LABELLED not in row.overrides
                )
        problems += [f"common: {SEED} is set by `seeds`"] * (SEED in self.common)
        if problems:
            raise ValueError("\n".join(problems))
        return self


class AblationRun(NamedTuple):
    """One `dvc exp run`."""

    digest: str
    stage: str
    method: str
    overrides: Mapping[str, Any]
    """Everything that differs from params.yaml."""
    settings: Mapping[str, Mapping[str, Any]] = {}
    """The resolved settings that its stages read: section -> key -> value, as JSON has them."""
    name: str = ""
    """Name of its file of answers: the target, a digest of what differs from params.yaml, and the seed."""

    @property
    def target(self) -> str:
        return f"{self.stage}@{self.method}"

    def __str__(self) -> str:
        changed = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self.overrides.items())
        return f"{self.target} {changed}".rstrip()


class PlannedRow(NamedTuple):
    """A row and its runs, by seed."""

    row: GridRow
    overrides: Mapping[str, Any]
    """The row's own overrides and its scaled values; without `common`."""
    run_of: Mapping[int, AblationRun]


def load(root: Path = Path(), file: Path = FILE) -> AblationGrid:
    """Read the grid's file below `root`.

    Raises:
        ConfigError: with every problem of the file, one line each.
    """
    found = config.read_yaml(root / file)
    try:
        grid = AblationGrid.model_validate(found)
    except ValidationError as error:  # a value fails once for each type
        lines = dict.fromkeys(line for item in error.errors() for line in _describe(item, found).splitlines())
        raise ConfigError("\n".join(f"{file}: {line}" for line in lines)) from None
    grid._file = file
    return grid


def choose(grid: AblationGrid, only: Sequence[str]) -> list[GridRow]:
    """Select the rows of these groups and names, and the rows they are compared with; all rows where `only` is empty.

    Raises:
        ConfigError: a name is neither a group nor a row.
    """
    groups, names = list(dict.fromkeys(row.group for row in grid.rows)), [row.name for row in grid.rows]
    if unknown := [name for name in only if name not in (*groups, *names)]:
        hints = ", ".join(f"{name!r}{did_you_mean(name, [*groups, *names])}" for name in unknown)
        raise ConfigError(
            f"{grid._file} has no group or row {hints}; groups are {', '.join(groups)}, rows are {', '.join(names)}"
        )
    chosen = [row for row in grid.rows if not only or row.group in only or row.name in only]
    wanted = {row.name for row in chosen} | {row.reference or grid.reference for row in chosen}
    return [row for row in grid.rows if row.name in wanted]


def plan(grid: AblationGrid, root: Path = Path()) -> list[PlannedRow]:
    """Find the runs of every row, with the settings, the code and the data below `root`.

    Raises:
        ConfigError: with every problem of every row, one line each.
    """
    params = config.read_yaml(root / config.PARAMS)
    with chdir(root), Repo() as repo:  # DVC looks for dvc.yaml in the current folder, wherever its root is
        upstream = {
            method: _upstream(repo, grid.stage, method)
            for method in METHODS
            if method in {row.method for row in grid.rows}
        }
    default = config.resolve(params, root)
    planned: list[PlannedRow] = []
    problems: list[str] = []
    evaluation_of: dict[str, dict[str, Any]] = {}
    for row in grid.rows:
        where = f"{grid._file}: row {row.name}"
        if row.method not in METHODS:
            hint = did_you_mean(row.method, METHODS)
            problems.append(f"{where}: method is {row.method!r}{hint}; choose from {', '.join(METHODS)}")
            continue
        overrides: dict[str, Any] = {**grid.common, **row.overrides}
        try:
            settings = _resolve(params, overrides, root)
            if scaled := _scaled(row.scale, settings):
                settings = _resolve(params, overrides | scaled, root)
        except ConfigError as error:
            message = str(error)
            for key in (*overrides, *row.scale):  # the wrong value is in this file, not in params.yaml
                message = message.replace(f"{config.PARAMS}: {key}", key)
            problems.append(f"{where}: {message}")
            continue
        if row.input == "longbench" and not settings.eval.longbench:
            problems.append(
                f"{where}: input is 'longbench', which needs eval.longbench: true (`overrides`, or `common`)"
            )
        if row.input == "retrieval" and settings.eval.retrieval_top_k is None:
            problems.append(f"{where}: input is 'retrieval', which eval.retrieval_top_k: null leaves out")
        evaluation_of[row.name] = _evaluation(settings, grid.stage)
        run_of = {
            seed: upstream[row.method].run(settings, default, overrides | scaled | {SEED: seed}) for seed in row.seeds
        }
        planned.append(PlannedRow(row, {**row.overrides, **scaled}, run_of))
    problems += _other_questions(evaluation_of, grid)
    if problems:
        raise ConfigError("\n".join(problems))
    return planned


def distinct(planned: Sequence[PlannedRow]) -> list[AblationRun]:
    """List each run once: the first seed of every row, then the second, so that a grid can be read before its end."""
    rounds = zip_longest(*(one.run_of.values() for one in planned))
    return list({run.digest: run for seed_of_each in rounds for run in seed_of_each if run}.values())


def _evaluation(settings: Settings, stage: str) -> dict[str, Any]:
    """Select the settings that decide the questions and contexts of the evaluation, by their dotted keys."""
    others = ("train_", "unlabelled_", *(["surface_"] if stage == "evaluate" else []))
    data = {
        f"data.{key}": value
        for key, value in settings.data.model_dump(mode="json").items()
        if not key.startswith(others)
    }
    return {**data, "eval.split": settings.eval.split, "eval.contexts": settings.eval.contexts}


def _other_questions(evaluation_of: Mapping[str, Mapping[str, Any]], grid: AblationGrid) -> Iterator[str]:
    """Name the rows that cannot be in one table with the reference row."""
    expected = evaluation_of.get(grid.reference, {})
    for name, found in evaluation_of.items():
        keys = [key for key in {**expected, **found} if expected and found.get(key) != expected.get(key)]
        if keys:
            differing = ", ".join(f"{key} is {found.get(key)!r} and not {expected.get(key)!r}" for key in keys)
            yield (
                f"{grid._file}: row {name}: {differing} as in row {grid.reference}: the rows of one table answer the "
                "same questions over the same contexts; set this in `common`, or in params.yaml"
            )


class _Upstream(NamedTuple):
    """The stages up to a target: a digest of their commands and files, and the sections of settings they read."""

    stage: str
    method: str
    files: str
    sections: set[str]

    def run(self, settings: Settings, default: Settings, overrides: Mapping[str, Any]) -> AblationRun:
        """Identify the run with these settings and overrides, which hold the seed; `default`: those of params.yaml."""
        trained = settings.train.model_copy(update={"seed": overrides[SEED]})
        seeded = settings.model_copy(update={"train": trained})
        read, usual = (one.model_dump(mode="json", include=self.sections) for one in (seeded, default))
        changed = {
            f"{section}.{key}": value
            for section, values in read.items()
            for key, value in values.items()
            if f"{section}.{key}" != SEED and usual[section].get(key) != value
        }
        seed = f"-seed{trained.seed}" if "train" in self.sections else ""  # nothing is drawn without a training
        name = f"{self.stage}-{self.method}-{_digest(changed)[:8]}{seed}"
        return AblationRun(_digest([self.files, read]), self.stage, self.method, overrides, read, name)


def _digest(found: Any) -> str:
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _upstream(repo: Any, stage: str, method: str) -> _Upstream:
    total = hashlib.sha256()
    sections: set[str] = set()
    found = repo.stage.collect(f"{stage}@{method}", with_deps=True)
    # Stage `settings` changes no result, and depends on all of conf/, which holds the grids themselves.
    stages = sorted((one for one in found if one.addressing != "settings"), key=lambda one: str(one.addressing))
    made = {Path(out.fs_path) for one in found for out in one.outs}
    for one in stages:
        total.update(f"{one.addressing} {one.cmd} {sorted(out.def_path for out in one.outs)}\n".encode())
        for dep in one.deps:
            path = Path(dep.fs_path)
            if isinstance(dep, ParamsDependency):
                if path.name == config.PARAMS.name:
                    sections |= {str(key).partition(".")[0] for key in dep.params}
            elif not any(out == path or path in out.parents or out in path.parents for out in made):
                # As DVC itself, without what .dvcignore names: bytecode of Python changes with every copy.
                for file in sorted(map(Path, repo.dvcignore.find(repo.fs, dep.fs_path))) if path.is_dir() else [path]:
                    total.update(f"{file.relative_to(repo.root_dir)}\n".encode())
                    with file.open("rb") as opened:
                        total.update(hashlib.file_digest(opened, "sha256").digest())
    return _Upstream(stage, method, total.hexdigest(), sections)


def _resolve(params: dict[str, Any], overrides: Mapping[str, Any], root: Path) -> Settings:
    """Resolve the settings as `dvc exp run -S` with these overrides does."""
    changed = copy.deepcopy(params)
    for dotted, value in overrides.items():
        *sections, name = dotted.split(".")
        place = changed
        for section in sections:
            below = place.setdefault(section, {})
            if not isinstance(below, dict):
                raise ConfigError(f"{dotted} is not a setting: {section} is a value, not a section")
            place = below
        place[name] = value
    return config.resolve(changed, root)


def _scaled(scale: Mapping[str, float], settings: Settings) -> dict[str, Any]:
    """Multiply each of these settings by its factor: dotted key -> value. Whole numbers stay whole."""
    values, problems = {}, []
    for dotted, factor in scale.items():
        value: Any = settings.model_dump()
        for part in dotted.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if not isinstance(value, int | float) or isinstance(value, bool):
            problems.append(f"scale: {dotted} is no number among the settings")
        elif isinstance(value, int) and value * factor != int(value * factor):
            problems.append(f"scale: {dotted} is {value}, which times {factor} is no whole number")
        else:
            values[dotted] = type(value)(value * factor)
    if problems:
        raise ConfigError("; ".join(problems))
    return values


def _describe(item: Any, found: Mapping[str, Any]) -> str:
    """Put one pydantic error into words; those of the whole grid are a line each."""
    path = list(item["loc"])
    if not path:
        return str(item["ctx"]["error"])
    where, known = "", AblationGrid.model_fields
    if path[0] == "rows" and len(path) > 1:
        row = found["rows"][path[1]]
        name = row.get("name") if isinstance(row, dict) else None
        where, known, path = f"row {name or path[1] + 1}: ", GridRow.model_fields, path[2:]
    if path[:1] == ["overrides"] and len(path) > 1:
        key, value = path[1], found["rows"][item["loc"][1]]["overrides"][path[1]]
        hint = (
            f"; for a key below it write `{key}.{next(iter(value), 'key')}: value`" if isinstance(value, dict) else ""
        )
        return f"{where}overrides.{key} is {value!r}, allowed are a value and a list of values{hint}"
    key = ".".join(map(str, path))
    if item["type"] == "extra_forbidden":
        return f"{where}{key} is not a key{did_you_mean(path[-1], known)}; allowed are {', '.join(known)}"
    if item["type"] == "missing":
        return f"{where}{key} is missing"
    message = f"{item['msg'][0].lower()}{item['msg'][1:]}"
    return f"{where}{key + ' is ' if key else ''}{item['input']!r}: {message}"
