"""The run behind every row and seed of the ablation grid.

A run is known by a digest of all that its answers depend on: the stages of dvc.yaml up to evaluate@<method>, the bytes
of their code and of `input/`, and the resolved settings that they read. Rows with equal settings share it.
"""

import copy
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, NamedTuple

from dvc.dependency import ParamsDependency
from dvc.repo import Repo

from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, did_you_mean
from pipeline.runtime.settings import Settings
from pipeline.tools.ablations.grid import FILE, SEED, Grid, Row

GRAPH = Path("dvc.yaml")


class Run(NamedTuple):
    """One `dvc exp run`."""

    digest: str
    method: str
    seed: int
    overrides: Mapping[str, Any]
    """All that differs from params.yaml."""

    def __str__(self) -> str:
        changed = " ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in self.overrides.items())
        return f"evaluate@{self.method} {changed}".rstrip()


class Planned(NamedTuple):
    """A row and its runs, by seed."""

    row: Row
    overrides: Mapping[str, Any]
    """Its own, scaled values among them; without `common`."""
    run_of: Mapping[int, Run]


def plan(grid: Grid, root: Path = Path()) -> list[Planned]:
    """The runs of every row, with the settings, the code and the data below `root`.

    Raises:
        ConfigError: with every problem of every row, one line each.
    """
    params = config.read_yaml(root / config.PARAMS)
    methods, wanted = _methods(root), {row.method for row in grid.rows}
    with chdir(root), Repo() as repo:  # DVC looks for dvc.yaml in the current folder, wherever its root is
        upstream = {method: _Upstream(repo, method) for method in methods if method in wanted}
    resolved: dict[str, Settings] = {}
    planned, problems = [], []
    asked_of: dict[str, dict[str, Any]] = {}
    for row in grid.rows:
        where = f"{FILE}: row {row.name}"
        if row.method not in methods:
            hint = did_you_mean(row.method, methods)
            problems.append(f"{where}: method is {row.method!r}{hint}; choose from {', '.join(methods)}")
            continue
        overrides: dict[str, Any] = {**grid.common, **row.overrides}
        try:
            scaled = _scaled(row.scale, _resolve(params, overrides, root)) if row.scale else {}
            key = json.dumps(overrides | scaled, sort_keys=True)
            if key not in resolved:
                resolved[key] = _resolve(params, overrides | scaled, root)
        except ConfigError as error:
            message = str(error)
            for key in (*overrides, *row.scale):  # it stands here, not there
                message = message.replace(f"{config.PARAMS}: {key}", key)
            problems.append(f"{where}: {message}")
            continue
        run_of, settings = {}, resolved[key]
        asked_of[row.name] = _asked(settings)
        if row.input == "longbench" and not settings.eval.longbench:
            problems.append(
                f"{where}: input is 'longbench', which needs eval.longbench: true (`overrides`, or `common`)"
            )
        for seed in row.seeds:
            seeded = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": seed})})
            digest = upstream[row.method].digest(seeded)
            run_of[seed] = Run(digest, row.method, seed, {**overrides, **scaled, SEED: seed})
        planned.append(Planned(row, {**row.overrides, **scaled}, run_of))
    problems += _other_questions(asked_of, grid.reference)
    if problems:
        raise ConfigError("\n".join(problems))
    return planned


def _asked(settings: Settings) -> dict[str, Any]:
    """The settings that make the questions and contexts of the evaluation, by their dotted keys."""
    data = {
        f"data.{key}": value
        for key, value in settings.data.model_dump(mode="json").items()
        if not key.startswith(("train_", "unlabelled_", "surface_"))
    }
    return {**data, "eval.split": settings.eval.split, "eval.contexts": settings.eval.contexts}


def _other_questions(asked_of: Mapping[str, Mapping[str, Any]], reference: str) -> Iterator[str]:
    """Rows that cannot stand in one table with the reference row."""
    expected = asked_of.get(reference, {})
    for name, asked in asked_of.items():
        keys = [key for key in {**expected, **asked} if expected and asked.get(key) != expected.get(key)]
        if keys:
            differing = ", ".join(f"{key} is {asked.get(key)!r} and not {expected.get(key)!r}" for key in keys)
            yield (
                f"{FILE}: row {name}: {differing} as in row {reference}: the rows of one table answer the same "
                "questions over the same contexts; set this in `common`, or in params.yaml"
            )


def distinct(planned: Sequence[Planned]) -> list[Run]:
    """Each run once, in the order of the rows."""
    return list({run.digest: run for one in planned for run in one.run_of.values()}.values())


class _Upstream:
    """What the stages up to evaluate@<method> are made of."""

    def __init__(self, repo: Any, method: str) -> None:
        total = hashlib.sha256()
        self._sections: set[str] = set()
        found = repo.stage.collect(f"evaluate@{method}", with_deps=True)
        stages = sorted(found, key=lambda stage: str(stage.addressing))
        made = {Path(out.fs_path) for stage in stages for out in stage.outs}
        for stage in stages:
            total.update(f"{stage.addressing} {stage.cmd} {sorted(out.def_path for out in stage.outs)}\n".encode())
            for dep in stage.deps:
                path = Path(dep.fs_path)
                if isinstance(dep, ParamsDependency):
                    if path.name == config.PARAMS.name:
                        self._sections |= {str(key).partition(".")[0] for key in dep.params}
                elif not any(out == path or path in out.parents or out in path.parents for out in made):
                    for file in _files(path):
                        total.update(f"{file.relative_to(repo.root_dir)}\n".encode())
                        with file.open("rb") as opened:
                            total.update(hashlib.file_digest(opened, "sha256").digest())
        self._files = total.hexdigest()

    def digest(self, settings: Settings) -> str:
        """Of a run with these settings."""
        read = settings.model_dump(mode="json", include=self._sections)
        return hashlib.sha256(json.dumps([self._files, read], sort_keys=True).encode()).hexdigest()


def _files(path: Path) -> Iterator[Path]:
    yield from sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]


def _methods(root: Path) -> list[str]:
    return list(config.read_yaml(root / GRAPH)["stages"]["evaluate"]["foreach"])


def _resolve(params: dict[str, Any], overrides: Mapping[str, Any], root: Path) -> Settings:
    """The settings after `dvc exp run -S` with these overrides."""
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
    """Dotted key -> its value times the factor; what is counted stays a whole number."""
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
            values[dotted] = int(value * factor) if isinstance(value, int) else value * factor
    if problems:
        raise ConfigError("; ".join(problems))
    return values
