"""The artifacts between stages, of the schemas in schemas.py: checked on read, atomic on write.

A file written twice from the same rows is the same bytes: no timestamps, fixed compression, fixed row groups.
File metadata carries the table's name, its schema version and whatever the writer adds (the tokenizer's digest, say).
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common import files
from pipeline.common.schemas import (
    ABLATION_RUN,
    ABLATIONS,
    CHUNKS,
    DOCUMENTS,
    EXAMPLES,
    FULL_VIEWS,
    MASKED_VIEWS,
    PREDICTIONS,
    SCORES,
    TEACHINGS,
    Table,
)
from pipeline.runtime.errors import ArtifactError

__all__ = [  # the schemas are used by the names of this module
    "ABLATIONS",
    "ABLATION_RUN",
    "CHUNKS",
    "DOCUMENTS",
    "EXAMPLES",
    "FULL_VIEWS",
    "MASKED_VIEWS",
    "PREDICTIONS",
    "ROWS_PER_GROUP",
    "SCORES",
    "TEACHINGS",
    "Row",
    "Table",
    "Writer",
    "metadata",
    "read",
    "scan",
    "side_by_side",
    "write",
]

ROWS_PER_GROUP = 256  # small groups: a row of 32k tokens is 128 KiB, and training reads rows at random

Row = dict[str, Any]


class Writer:
    """Writes rows of one table in bounded memory; the file appears whole when the `with` block ends, or not at all."""

    def __init__(self, path: Path, table: Table, metadata: Mapping[str, str] | None = None) -> None:
        self.num_rows = 0
        self._rows: list[Row] = []
        marks = {**(metadata or {}), "table": table.name, "schema_version": str(table.version)}
        self._schema = table.schema.with_metadata(marks)
        self._atomic = files.atomic(path)

    def __enter__(self) -> Self:
        self._parquet = pq.ParquetWriter(
            self._atomic.__enter__(),
            self._schema,
            compression="zstd",
            compression_level=1,
            write_page_checksum=True,
        )
        return self

    def write(self, row: Row) -> None:
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) == ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._parquet.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        try:
            if kind is None:
                self._flush()
            self._parquet.close()
        except BaseException as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)


def write(path: Path, table: Table, rows: Iterable[Row], metadata: Mapping[str, str] | None = None) -> int:
    """Write all rows and return their number."""
    with Writer(path, table, metadata) as writer:
        for row in rows:
            writer.write(row)
    return writer.num_rows


def scan(path: Path, table: Table, columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows one by one, in bounded memory, after the file was checked against the table's schema.

    Raises:
        ArtifactError: the file is missing, damaged, of another table or of another schema version.
    """
    file = _open(path, table)
    try:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=columns):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, table, error) from None


def side_by_side(*sources: tuple[Path, Table, list[str] | None]) -> Iterator[tuple[Row, ...]]:
    """Scan several tables whose rows belong together, one row of each at a time.

    Raises:
        ArtifactError: as `scan`, or the tables are not of one length or not in one order of example_id.
    """
    streams = [scan(path, table, columns) for path, table, columns in sources]
    nothing: Row = {"example_id": "no row"}
    for rows in zip_longest(*streams, fillvalue=nothing):
        ids = [row["example_id"] for row in rows]
        if len(set(ids)) != 1:
            places = ", ".join(f"{path} ({found})" for (path, *_), found in zip(sources, ids, strict=True))
            stages = " ".join(table.stage for _, table, _ in sources)
            raise ArtifactError(f"rows do not belong together: {places}; run `dvc repro -f {stages}`")
        yield rows


def read(path: Path, table: Table, columns: list[str] | None = None) -> pa.Table:
    """Read the whole table, checked like `scan`."""
    file = _open(path, table)
    try:
        return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, table, error) from None


def metadata(path: Path, table: Table) -> dict[str, str]:
    """The marks in the file's metadata."""
    marks = _open(path, table).schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in marks.items() if not key.startswith(b"ARROW")}


def _open(path: Path, table: Table) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; run `dvc repro {table.stage}` first") from None
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, table, error) from None
    marks = file.schema_arrow.metadata or {}
    found = f"{marks.get(b'table', b'?').decode()} version {marks.get(b'schema_version', b'?').decode()}"
    expected = f"{table.name} version {table.version}"
    if found != expected:
        raise ArtifactError(f"{path}: holds {found}, expected {expected}; run `dvc repro -f {table.stage}`")
    for field in table.schema:
        index = file.schema_arrow.get_field_index(field.name)
        if index < 0 or not file.schema_arrow.field(index).type.equals(field.type):
            kind = "missing" if index < 0 else str(file.schema_arrow.field(index).type)
            raise ArtifactError(
                f"{path}: column {field.name} is {kind}, expected {field.type}; run `dvc repro -f {table.stage}`"
            )
    return file


def _damaged(path: Path, table: Table, error: Exception) -> ArtifactError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ArtifactError(
        f"{path}: damaged ({first_line}); delete it and run `dvc checkout {path}` or `dvc repro -f {table.stage}`"
    )
