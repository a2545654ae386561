"""The Parquet artifacts: path, Arrow schema and rows of each, checked reads and atomic writes.

To add a column, add it to the dataclass or to the table here, raise the table's version, and fill it in the stage that
writes the table.
"""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common import files
from pipeline.runtime.errors import ArtifactError, one_line

if TYPE_CHECKING:  # its import takes a second, and stages that stream do without
    import polars as pl


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a title (empty: none)."""

    document_id: str
    title: str
    text: str
    whole: bool = False
    """Never cut: a passage of a context of many documents stays one chunk, whatever its length."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Characters [start, end) of a document's text that hold the answer."""

    document_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """A question asked over one context."""

    example_id: str
    question_id: str
    """The same question in several contexts has one question_id: the unit of resampling."""
    benchmark: str
    split: str
    question: str
    answer_lead: str
    """Words that open the answer and belong to the prompt; may be empty."""
    answers: list[str]
    """References; the first one is trained on. Empty in split `unlabelled` alone."""
    document_ids: list[str]
    gold_document_ids: list[str]
    evidence: list[Evidence]
    gold_position: int
    """Place of the first gold document in the context, from 0; -1: unknown."""
    answer_types: list[str] = field(default_factory=list)
    """Of each reference, where the benchmark knows types (Qasper); else empty."""
    options: list[str] = field(default_factory=list)
    """Of a multiple-choice question, in the order they are shown; else empty."""
    gold_option: int = -1
    """Place of the right option, from 0; -1: no multiple choice."""
    subset: str = ""
    """A part of the benchmark that is also reported on its own (QuALITY: hard, easy); empty: none."""


class Benchmark(NamedTuple):
    """What `prepare` writes; both parts may be generators, so that size is not bounded by memory."""

    documents: Iterable[Document]
    examples: Iterable[Example]


def gold_flags(spans: Iterable[tuple[str, int, int]], evidence: list[Evidence]) -> Iterator[bool]:
    """For each chunk (document_id, start, end): does it share at least half of itself, or half of a piece of evidence?

    A chunk that holds the last word of the evidence does not hold the evidence. Evidence that lies in the chunks of its
    document always has a gold chunk: the one that holds most of it, or one that lies inside it.
    """
    for document_id, start, end in spans:
        yield any(
            document_id == found.document_id
            and 2 * (min(end, found.end) - max(start, found.start)) >= min(end - start, found.end - found.start)
            for found in evidence
        )


_SUBSET = "name-sharing rate "


def subset_of(name_sharing_rate: float) -> str:
    """`Example.subset` of the difficulty surface."""
    return f"{_SUBSET}{name_sharing_rate:g}"


def name_sharing_rate_of(subset: str) -> float:
    """What `subset_of` was made of."""
    return float(subset.removeprefix(_SUBSET))


TEXT = pa.large_string()
TEXTS = pa.large_list(pa.large_string())
INTS = pa.large_list(pa.int32())
_ARROW_TYPES: dict[Any, pa.DataType] = {str: TEXT, int: pa.int32(), bool: pa.bool_(), list[str]: TEXTS}


def _columns(row: type) -> tuple[tuple[str, pa.DataType], ...]:
    """One column for each field of a dataclass."""
    return tuple((name, _ARROW_TYPES[kind]) for name, kind in get_type_hints(row).items())


_ARROW_TYPES[list[Evidence]] = pa.large_list(pa.struct(_columns(Evidence)))


@dataclass(frozen=True)
class Table:
    """Name, schema version, path and columns of one artifact, and the stage that writes it. No column holds nulls."""

    name: str
    version: int
    stage: str
    path: Path
    columns: tuple[tuple[str, pa.DataType], ...]

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([pa.field(name, kind, nullable=False) for name, kind in self.columns])

    def __str__(self) -> str:
        """The path, for messages."""
        return str(self.path)

    def at(self, path: Path) -> "Table":
        """The same table in another file."""
        return replace(self, path=path)


DOCUMENTS = Table("documents", 1, "prepare", Path("data/documents.parquet"), _columns(Document))
EXAMPLES = Table("examples", 2, "prepare", Path("data/examples.parquet"), _columns(Example))
CHUNKS = Table(
    "chunks",
    1,
    "chunk",
    Path("data/chunks.parquet"),
    (
        ("chunk_id", TEXT),  # <document_id>#<index>
        ("document_id", TEXT),
        ("index", pa.int32()),  # within the document, from 0
        ("start", pa.int32()),  # characters of the document's text
        ("end", pa.int32()),
        ("title", TEXT),  # of the document
        ("text", TEXT),
    ),
)
SCORES = Table(
    "scores",
    1,
    "score",
    Path("data/scores.parquet"),
    (
        ("example_id", TEXT),  # same rows, same order as examples
        ("chunk_ids", TEXTS),  # every chunk of the context, in context order
        ("scores", pa.large_list(pa.float32())),
        ("ranks", INTS),  # 0 is best; equal scores rank in context order
        ("gold", pa.large_list(pa.bool_())),  # chunk overlaps the evidence
    ),
)
FULL_VIEWS = Table(
    "full views",
    2,
    "tokenize",
    Path("data/views/full.parquet"),
    (
        ("example_id", TEXT),
        ("question_id", TEXT),
        ("split", TEXT),
        ("num_documents", pa.int32()),
        ("gold_position", pa.int32()),
        ("document_ids", TEXTS),
        ("input_ids", INTS),  # BOS, instruction, chunks, question, answer, EOS; unlabelled: up to the question
        ("chunk_ids", TEXTS),  # in context order
        ("chunk_starts", INTS),  # token spans; a document's header belongs to its first chunk
        ("chunk_ends", INTS),
        ("question_start", pa.int32()),  # tokens of BOS, instruction and chunks: what questions of one context share
        ("prompt_end", pa.int32()),  # tokens of the prompt = first label
    ),
)
MASKED_VIEWS = Table(
    "masked views",
    1,
    "mask",
    Path("data/views/masked.parquet"),
    (
        ("example_id", TEXT),  # same rows, same order as the full views
        ("input_ids", INTS),
        ("position_ids", INTS),
        ("prompt_end", pa.int32()),
        ("kept_chunk_ids", TEXTS),  # in context order
        ("kept_scores", pa.large_list(pa.float32())),
        ("kept_ranks", INTS),
        ("gold_retained", pa.bool_()),  # a gold chunk is kept (false when the gold chunk is unknown)
        ("answer_retained", pa.bool_()),  # a reference answer stands in a kept chunk
    ),
)
TEACHINGS = Table(
    "teachings",
    1,
    "teach",
    Path("data/teachings.parquet"),
    (
        ("example_id", TEXT),  # of splits train and unlabelled, in the order of the full views
        ("output_ids", INTS),  # the teacher's answer, EOS included where it came to an end
        ("top_ids", INTS),  # of each token of the answer the teacher's likeliest tokens, num_top of them
        ("top_log_probs", pa.large_list(pa.float32())),  # nats
        ("num_top", pa.int32()),
    ),
)

ROWS_PER_GROUP = 256  # small groups: a row of 32k tokens is 128 KiB, and training reads rows at random

Row = dict[str, Any]


class Writer:
    """Writes rows of one table in bounded memory; the file appears whole when the `with` block ends, or not at all."""

    def __init__(self, table: Table, metadata: Mapping[str, str] | None = None) -> None:
        self.num_rows = 0
        self._rows: list[Row] = []
        marks = {**(metadata or {}), "table": table.name, "schema_version": str(table.version)}
        self._schema = table.schema.with_metadata(marks)
        self._atomic = files.atomic(table.path)

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


def write(table: Table, rows: Iterable[Row], metadata: Mapping[str, str] | None = None) -> int:
    """Write all rows and return their number."""
    with Writer(table, metadata) as writer:
        for row in rows:
            writer.write(row)
    return writer.num_rows


def scan(table: Table, columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows one by one, in bounded memory, after the file was checked against the table's schema.

    Raises:
        ArtifactError: the file is missing, damaged, of another table or of another schema version.
    """
    file = _open(table)
    try:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP, columns=columns):
            yield from batch.to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _damaged(table, error) from None


def take(table: Table, columns: list[str] | None, rows: Sequence[int]) -> Iterator[Row]:
    """Yield the rows of the given numbers, which ascend; lists of numbers come as numpy arrays. Checked like `scan`."""
    file = _open(table)
    first = 0
    try:
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if wanted := [row - first for row in rows[bisect_left(rows, first) : bisect_left(rows, end)]]:
                found = file.read_row_group(group, columns=columns).take(wanted)
                for values in zip(*map(_values, found.columns), strict=True):
                    yield dict(zip(found.column_names, values, strict=True))
            first = end
    except (OSError, pa.ArrowException) as error:
        raise _damaged(table, error) from None


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_large_list(column.type) and pa.types.is_primitive(column.type.value_type):
        return [numbers.values.to_numpy(zero_copy_only=False) for numbers in column]
    values: list[Any] = column.to_pylist()
    return values


Selection = tuple[Table, list[str] | None]
"""A table and the columns that are read; None: all."""


def side_by_side(*sources: Selection) -> Iterator[tuple[Row, ...]]:
    """Scan several tables whose rows belong together, one row of each at a time.

    Raises:
        ArtifactError: as `scan`, or the tables are not of one length, not in one order of example_id, or name other
            chunks for an example.
    """
    streams = [scan(table, columns) for table, columns in sources]
    found = [table for table, _ in sources]
    nothing: Row = {"example_id": "no row"}
    for rows in zip_longest(*streams, fillvalue=nothing):
        ids = [row["example_id"] for row in rows]
        if len(set(ids)) != 1:
            places = ", ".join(f"{table} ({example_id})" for table, example_id in zip(found, ids, strict=True))
            stages = " ".join(table.stage for table in found)
            raise ArtifactError(f"rows do not belong together: {places}; run `dvc repro -f {stages}`")
        chunks = [(table, row["chunk_ids"]) for table, row in zip(found, rows, strict=True) if "chunk_ids" in row]
        for table, chunk_ids in chunks[1:]:
            if chunk_ids != chunks[0][1]:
                raise _other_chunks(ids[0], table, chunks[0][0])
        yield rows


def frame(table: Table, columns: list[str] | None = None) -> "pl.DataFrame":
    """Read the table as a polars frame, checked like `scan`. For ids and numbers; stream token columns with `scan`."""
    import polars as pl

    found = pl.from_arrow(read(table, columns))
    assert isinstance(found, pl.DataFrame)
    return found


def joined(*sources: Selection) -> "pl.DataFrame":
    """Join tables on example_id, one row of each per example, in the order of the first.

    `chunk_ids`, where several tables have it, must be equal and is kept once; no other column may stand in two.

    Raises:
        ArtifactError: as `scan`, or an example is missing in a table, stands there twice, or has other chunks.
    """
    import polars as pl

    (table, columns), *others = sources
    found = frame(table, columns)
    for other, other_columns in others:
        beside = frame(other, other_columns)
        ids, other_ids = found["example_id"].sort(), beside["example_id"].sort()
        if other_ids.n_unique() != len(other_ids) or not ids.equals(other_ids):
            raise ArtifactError(
                f"rows do not belong together: {table} has {len(ids):,} examples, {other} "
                f"{len(other_ids):,}, and they are not the same, each once; run `dvc repro -f {table.stage} "
                f"{other.stage}`"
            )
        found = found.join(beside, on="example_id", how="left", validate="1:1", maintain_order="left", suffix=" beside")
        if "chunk_ids beside" in found.columns:
            wrong = found.filter(pl.col("chunk_ids") != pl.col("chunk_ids beside"))
            if len(wrong):
                raise _other_chunks(wrong["example_id"][0], other, table)
            found = found.drop("chunk_ids beside")
    assert not any(name.endswith(" beside") for name in found.columns), found.columns
    return found


def _other_chunks(example_id: str, table: Table, first: Table) -> ArtifactError:
    return ArtifactError(
        f"{table}: chunks of example {example_id} are not those in {first}; run "
        f"`dvc repro -f {table.stage} {first.stage}`"
    )


def read(table: Table, columns: list[str] | None = None) -> pa.Table:
    """Read the whole table, checked like `scan`."""
    file = _open(table)
    try:
        return file.read(columns=columns)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(table, error) from None


def metadata(table: Table) -> dict[str, str]:
    """The key-value metadata of the file, without Arrow's own."""
    marks = _open(table).schema_arrow.metadata or {}
    return {key.decode(): value.decode() for key, value in marks.items() if not key.startswith(b"ARROW")}


def _open(table: Table) -> pq.ParquetFile:
    try:
        file = pq.ParquetFile(table.path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ArtifactError(f"{table}: no such file; run `dvc repro {table.stage}` first") from None
    except (OSError, pa.ArrowException) as error:
        raise _damaged(table, error) from None
    marks = file.schema_arrow.metadata or {}
    found = f"{marks.get(b'table', b'?').decode()} version {marks.get(b'schema_version', b'?').decode()}"
    expected = f"{table.name} version {table.version}"
    if found != expected:
        raise ArtifactError(f"{table}: holds {found}, expected {expected}; run `dvc repro -f {table.stage}`")
    for column in table.schema:
        index = file.schema_arrow.get_field_index(column.name)
        if index < 0 or not file.schema_arrow.field(index).type.equals(column.type):
            kind = "missing" if index < 0 else str(file.schema_arrow.field(index).type)
            raise ArtifactError(
                f"{table}: column {column.name} is {kind}, expected {column.type}; run `dvc repro -f {table.stage}`"
            )
    return file


def _damaged(table: Table, error: Exception) -> ArtifactError:
    return ArtifactError(
        f"{table}: damaged ({one_line(error)}); delete it and run `dvc checkout {table}` or "
        f"`dvc repro -f {table.stage}`"
    )
