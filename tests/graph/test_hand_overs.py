"""Every table that one stage hands to another: what was cut, changed or exchanged on the way is refused in one line."""

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.runtime.errors import ArtifactError
from tests.graph.closure import INSTANCES, written
from tests.graph.project import Project

TABLES = {
    str(table): table
    for table in (
        tables.DOCUMENTS, tables.EXAMPLES, tables.CHUNKS, tables.SCORES, tables.FULL_VIEWS, tables.MASKED_VIEWS,
        tables.TEACHINGS, *(schema.predictions_of(name.partition("@")[2]) for name in INSTANCES if "evaluate@" in name),
    )
}  # fmt: skip
READERS = [
    name for name in INSTANCES if name.startswith("train@") or not name.endswith(("vanilla", "focused", "guided"))
]
"""One instance of each stage: the others differ in the adapter alone."""


def inputs(name: str) -> list[tables.Table]:
    """The tables among the deps of a stage, and in the folders among them."""
    deps = [Path(dep) for dep in INSTANCES[name]["deps"]]
    return [table for table in TABLES.values() if any(dep in (table.path, *table.path.parents) for dep in deps)]


HAND_OVERS = [(name, table) for name in READERS for table in inputs(name)]


def test_every_table_that_a_stage_writes_is_handed_over():
    """So that a new one is tested here; those of stage surface are for the reader alone."""
    outs = {path for stage in INSTANCES.values() for path in written(stage) if path.endswith(".parquet")}
    assert {path for path in outs if not path.startswith(str(schema.SURFACE))} == {
        str(table) for _, table in HAND_OVERS
    }


def half(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[: len(rows) // 2]


def not_a_number(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"scores": [float("nan")] * len(row["scores"])} for row in rows]


def best_twice(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"ranks": [rank // 2 for rank in row["ranks"]]} for row in rows]


def one_chunk_less(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    per_chunk = tables.SCORES.parallel if "ranks" in rows[0] else tables.FULL_VIEWS.parallel
    return [row | {name: row[name][1:] for name in per_chunk} for row in rows]


Fault = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
FAULTS: dict[str, tuple[Fault, ...]] = {
    tables.SCORES.name: (half, not_a_number, best_twice, one_chunk_less),
    tables.FULL_VIEWS.name: (half, one_chunk_less),
}


@pytest.fixture(scope="module")
def looking(project: Project) -> Iterator[Project]:
    """The toy run, with a setting under which focused training reads the scores too."""
    before = (project.root / "params.yaml").read_bytes()
    project.edit({"views": {"attention": 1.0}})
    yield project
    (project.root / "params.yaml").write_bytes(before)


def refusal(project: Project, name: str, table: tables.Table, monkeypatch: pytest.MonkeyPatch, change: Callable) -> str:
    """Run the stage while a table is changed; what it says."""
    stage, _, method = name.partition("@")
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "argv", [stage, *filter(None, [method])])
    whole = table.path.read_bytes()
    table.path.unlink()  # perhaps a link into DVC's cache
    table.path.write_bytes(whole)
    try:
        change()
        with pytest.raises(ArtifactError) as refused:
            import_module(f"pipeline.stages.{stage}").main()
    finally:
        table.path.unlink()
        table.path.write_bytes(whole)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("name", "table", "fault"),
    [(name, table, fault) for name, table in HAND_OVERS for fault in FAULTS.get(table.name, (half,))],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_table_that_another_program_changed_is_refused(
    looking: Project, monkeypatch: pytest.MonkeyPatch, name: str, table: tables.Table, fault: Fault
):
    """It is whole Parquet of the right columns, with the marks that pyarrow keeps."""

    def change() -> None:
        found = pq.read_table(table.path)
        pq.write_table(pa.Table.from_pylist(fault(found.to_pylist()), schema=found.schema), table.path)

    said = refusal(looking, name, table, monkeypatch, change)
    assert said.startswith(f"{table}: damaged (it holds no digest of its content")
    assert said.endswith(f"delete it and run `dvc checkout {table}` or `dvc repro -f {table.stage}`")


@pytest.mark.parametrize(
    "name", ["validate", "mask", "teach", "train@focused", "train@guided", "evaluate@base", "analyze"]
)
def test_a_table_of_another_run_is_refused_beside_those_made_from_it(
    looking: Project, monkeypatch: pytest.MonkeyPatch, name: str
):
    """It is whole and right in itself, and has the ids that it should have."""
    monkeypatch.chdir(looking.root)
    found = inputs(name)
    exchanged = [table for table in found if any(table.name in tables.made_from(other) for other in found)]
    assert exchanged
    for table in exchanged:

        def change(table: tables.Table = table) -> None:
            tables.write(table, list(tables.scan(table)), tables.metadata(table) | {"run": "another"})

        said = refusal(looking, name, table, monkeypatch, change)
        assert f"was made from {table.name} with digest " in said and "; run `dvc repro " in said
