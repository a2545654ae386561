"""The Parquet artifacts: path, Arrow schema and rows of each, checked reads and atomic writes.

The metadata of a file hold the number of its rows, the digest of the file, and the digests of the tables that it was
made from. Each reader checks the digest before anything is parsed, and what reads several tables checks that they
belong together (`require_together`): a file that was cut, changed or exchanged is refused and not half used.

To add a column, add it to the dataclass or to the table here, raise the table's version, and fill it in the stage that
writes the table.
"""

import json
from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from itertools import chain, pairwise, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.common import files, seal
from pipeline.runtime.errors import ArtifactError, NumericError, one_line

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
    """The output of stage prepare; both parts may be generators, so that size is not bounded by memory."""

    documents: Iterable[Document]
    examples: Iterable[Example]


def row_of(value: Document | Example) -> dict[str, Any]:
    """The value as a row of its table."""
    row = {each.name: getattr(value, each.name) for each in fields(value)}
    if isinstance(value, Example):
        row["evidence"] = [
            {"document_id": found.document_id, "start": found.start, "end": found.end} for found in value.evidence
        ]
    return row


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
    """Read the name-sharing rate back from a text that `subset_of` made."""
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
    """Name, schema version, path and columns of one artifact, and the stage that writes it.

    No column holds nulls, and no number is NaN or infinite.
    """

    name: str
    version: int
    stage: str
    path: Path
    columns: tuple[tuple[str, pa.DataType], ...]
    parallel: tuple[str, ...] = ()
    """Columns of lists, which have equal lengths within a row."""
    ranks: str | None = None
    """The column whose lists are the numbers from 0, each once, in some order."""

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
        ("ranks", INTS),  # 0 is best; equal scores rank by chance, wherever the chunks stand
        ("gold", pa.large_list(pa.bool_())),  # chunk overlaps the evidence
    ),
    parallel=("chunk_ids", "scores", "ranks", "gold"),
    ranks="ranks",
)
FULL_VIEWS = Table(
    "full views",
    3,
    "tokenize",
    Path("data/views/full.parquet"),
    (
        ("example_id", TEXT),
        ("question_id", TEXT),
        ("split", TEXT),
        ("num_documents", pa.int32()),
        ("gold_position", pa.int32()),
        ("document_ids", TEXTS),
        # Names the gold texts, divided by tabs, or, where gold is unknown, all texts of the context, divided by line
        # ends. Texts are compared by text_key. Examples that share a part of it are never each other's negatives.
        ("context_key", TEXT),
        ("input_ids", INTS),  # BOS, instruction, chunks, question, answer, EOS; unlabelled: up to the question
        ("chunk_ids", TEXTS),  # in context order
        ("chunk_starts", INTS),  # token spans; a document's header belongs to its first chunk
        ("chunk_ends", INTS),
        ("question_start", pa.int32()),  # tokens of BOS, instruction and chunks: what questions of one context share
        ("prompt_end", pa.int32()),  # tokens of the prompt = first label
    ),
    parallel=("chunk_ids", "chunk_starts", "chunk_ends"),
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
    parallel=("kept_chunk_ids", "kept_scores", "kept_ranks"),
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

_DAMAGE = (OSError, pa.ArrowException, UnicodeDecodeError)
"""What pyarrow raises at a damaged file; the last one, where a text is no UTF-8."""

Row = dict[str, Any]


class Writer:
    """Collects the rows of a table that `writer` opened, and writes them in groups."""

    def __init__(self, table: Table, parquet: pq.ParquetWriter) -> None:
        self.num_rows = 0
        self._table, self._parquet = table, parquet
        self._rows: list[Row] = []
        self._made_from: dict[str, str] = {}

    def write(self, row: Row) -> None:
        self._rows.append(row)
        self.num_rows += 1
        if len(self._rows) == ROWS_PER_GROUP:
            self.flush()

    def flush(self) -> None:
        """Write the rows so far as one group. Raises NumericError when a number in them is not as the table says."""
        if self._rows:
            columns = [_column([row[name] for row in self._rows], kind) for name, kind in self._table.columns]
            rows = pa.Table.from_arrays(columns, schema=self._parquet.schema)
            _require_sound(self._table, rows)
            self._parquet.write_table(rows)
            self._rows = []

    def made_from(self, *sources: Table) -> None:
        """Note the digests of the tables that the rows are made from. Raises ArtifactError as `require_together`."""
        assert len({table.name for table in sources}) == len(sources), sources
        self._made_from |= require_together(*sources)

    def finish(self) -> None:
        self.flush()
        marks = {_MADE_FROM: json.dumps(self._made_from, sort_keys=True), _NUM_ROWS: str(self.num_rows)}
        self._parquet.add_key_value_metadata({**marks, seal.KEY: seal.BLANK})


@contextmanager
def writer(table: Table, metadata: Mapping[str, str] | None = None, sources: Sequence[Table] = ()) -> Iterator[Writer]:
    """Write rows of one table in bounded memory; the file appears whole when the `with` block ends, or not at all.

    Args:
        sources: the tables that the rows are made from.

    Raises:
        ArtifactError: as `require_together` of the sources.
    """
    marks = {**(metadata or {}), "table": table.name, "schema_version": str(table.version)}
    schema = table.schema.with_metadata(marks)
    options = {"compression": "zstd", "compression_level": 1, "write_page_checksum": True}
    with files.atomic(table.path) as path:
        with pq.ParquetWriter(path, schema, **options) as parquet:
            rows = Writer(table, parquet)
            rows.made_from(*sources)
            yield rows
            rows.finish()
        seal.put(path)


def write(
    table: Table, rows: Iterable[Row], metadata: Mapping[str, str] | None = None, sources: Sequence[Table] = ()
) -> int:
    """Write all rows and return their number; arguments as of `writer`."""
    with writer(table, metadata, sources) as out:
        for row in rows:
            out.write(row)
    return out.num_rows


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """Build a column; lists of numbers, which may be numpy arrays, without a Python object for each number."""
    if not (pa.types.is_large_list(kind) and pa.types.is_primitive(kind.value_type)):
        return pa.array(values, kind)
    ends = np.cumsum([0, *map(len, values)])
    dtype = kind.value_type.to_pandas_dtype()
    if all(isinstance(each, np.ndarray) for each in values):
        flat = np.concatenate(values).astype(dtype, casting="same_kind", copy=False)
    else:
        flat = np.fromiter(chain.from_iterable(values), dtype, ends[-1])
    return pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(flat, kind.value_type))


def _require_sound(table: Table, rows: pa.Table) -> None:
    for name, kind in table.columns:
        values = rows[name].combine_chunks()
        if pa.types.is_large_list(kind):
            values = values.flatten()
        if pa.types.is_floating(values.type) and not pc.all(pc.is_finite(values), min_count=0).as_py():
            raise NumericError(f"{table}: column {name} would hold NaN or an infinite number, so it is not written")
    lengths = [rows[name].combine_chunks().value_lengths() for name in table.parallel]
    if not all(length.equals(lengths[0]) for length in lengths):
        raise NumericError(f"{table}: columns {', '.join(table.parallel)} would differ in length, so it is not written")
    if table.ranks:
        lists = rows[table.ranks].combine_chunks()
        starts, ends = (part.to_numpy() for part in (lists.offsets[:-1], lists.offsets[1:]))
        row = np.repeat(np.arange(len(lists)), ends - starts)
        ranks = lists.values.to_numpy()
        if not np.array_equal(ranks[np.lexsort((ranks, row))], np.arange(len(ranks)) - starts[row]):
            raise NumericError(f"{table}: column {table.ranks} would be no permutation, so it is not written")


_MADE_FROM, _NUM_ROWS = "made_from", "num_rows"


def require_together(*tables: Table) -> dict[str, str]:
    """Check that tables belong together: those that were made from a table were made from one and the same.

    Tables that say nothing of a common source are not refused. Only the given tables are opened.

    Returns:
        The digest of each, by its name.

    Raises:
        ArtifactError: two tables do not belong together, or as `scan`.
    """
    said: dict[str, tuple[Table, str]] = {}
    """Name of a source -> a table that was made from it, and with which digest."""
    sources = [made_from(table) for table in tables]
    digests = {table.name: seal.digests(table.path).found for table in tables}
    there = {table.name: table for table in tables}
    for table, named in zip(tables, sources, strict=True):
        for name, digest in named.items():
            if digest != digests.get(name, digest):
                raise ArtifactError(
                    f"{table}: was made from {name} with digest {digest[:12]}, {there[name]} has {digests[name][:12]}; "
                    f"run `dvc repro {table.stage}`"
                )
            other, expected = said.setdefault(name, (table, digest))
            if digest != expected:
                raise ArtifactError(
                    f"{table}: was made from {name} with digest {digest[:12]}, {other} from those with "
                    f"{expected[:12]}; run `dvc repro {other.stage} {table.stage}`"
                )
    return digests


def require_ids(table: Table, there: Container[str], wanted: Iterable[str], source: Table) -> None:
    """Check that the rows of `table`, whose ids are `there`, hold all that `source` names.

    Raises:
        ArtifactError: one is missing.
    """
    if missing := [name for name in wanted if name not in there]:
        raise ArtifactError(
            f"{table}: has no {min(missing)}, which {source} names; run `dvc repro {table.stage} {source.stage}`"
        )


def scan(table: Table, columns: list[str] | None = None) -> Iterator[Row]:
    """Yield the rows one by one, in bounded memory, after the file was checked against the table's schema.

    Raises:
        ArtifactError: the file is missing, damaged, of another table or of another schema version.
    """
    return _scan(table, columns, pa.RecordBatch.to_pylist)


def _scan(table: Table, columns: list[str] | None, rows_of: Callable[[pa.RecordBatch], Iterable[Row]]) -> Iterator[Row]:
    try:
        for batch in batches(table, columns):
            yield from rows_of(batch)
    except UnicodeDecodeError as error:
        raise _damaged(table, one_line(error)) from None


def batches(table: Table, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows in batches of columns; checked like `scan`."""
    file = _open(table)
    try:
        yield from file.iter_batches(batch_size=ROWS_PER_GROUP, columns=columns)
    except _DAMAGE as error:
        raise _damaged(table, one_line(error)) from None


def take(table: Table, columns: list[str] | None, rows: Sequence[int]) -> Iterator[Row]:
    """Yield the rows of the given numbers, which ascend; lists of numbers come as numpy arrays. Checked like `scan`."""
    file = _open(table)
    first = 0
    try:
        for group in range(file.num_row_groups):
            end = first + file.metadata.row_group(group).num_rows
            if wanted := [row - first for row in rows[bisect_left(rows, first) : bisect_left(rows, end)]]:
                yield from _rows(file.read_row_group(group, columns=columns).take(wanted).combine_chunks())
            first = end
    except _DAMAGE as error:
        raise _damaged(table, one_line(error)) from None


def _rows(found: pa.Table | pa.RecordBatch) -> Iterator[Row]:
    """Yield rows in which lists of numbers are numpy arrays."""
    for values in zip(*map(_values, found.columns), strict=True):
        yield dict(zip(found.column_names, values, strict=True))


def _values(column: pa.ChunkedArray | pa.Array) -> list[Any]:
    if pa.types.is_large_list(column.type) and pa.types.is_primitive(column.type.value_type):
        lists = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        numbers = np.array(lists.values)  # a copy, because torch warns of arrays that cannot be written
        return [numbers[start:end] for start, end in pairwise(lists.offsets.to_numpy().tolist())]
    values: list[Any] = column.to_pylist()
    return values


Selection = tuple[Table, list[str] | None]
"""A table and the columns that are read; None: all."""


def side_by_side(*sources: Selection) -> Iterator[tuple[Row, ...]]:
    """Scan several tables whose rows belong together, one row of each at a time; lists of numbers as numpy arrays.

    Raises:
        ArtifactError: as `scan`, or the tables are not of one length, not in one order of example_id, or name other
            chunks for an example.
    """
    found = [table for table, _ in sources]
    require_together(*found)
    streams = [_scan(table, columns, _rows) for table, columns in sources]
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
                first = chunks[0][0]
                raise ArtifactError(
                    f"{table}: chunks of example {ids[0]} are not those in {first}; run "
                    f"`dvc repro -f {table.stage} {first.stage}`"
                )
        yield rows


def frame(table: Table, columns: list[str] | None = None) -> "pl.DataFrame":
    """Read the table as a polars frame, checked like `scan`. For ids and numbers; stream token columns with `scan`."""
    import polars as pl

    try:
        rows = _open(table).read(columns=columns)
        # polars ends in a panic at a text that is no UTF-8, and so it does at metadata.
        rows.validate(full=True)
        found = pl.from_arrow(pa.Table.from_arrays(rows.columns, rows.column_names))
    except _DAMAGE as error:
        raise _damaged(table, one_line(error)) from None
    assert isinstance(found, pl.DataFrame)
    return found


class FrameBuilder:
    """Rows that are collected as a polars frame: a million of them are columns, not dictionaries."""

    def __init__(self, schema: Mapping[str, Any] | None = None) -> None:
        self._schema = schema
        self._rows: list[Row] = []
        self._parts: list[pl.DataFrame] = []

    def append(self, row: Row) -> None:
        self._rows.append(row)
        if len(self._rows) == 16 * ROWS_PER_GROUP:
            self._flush()

    def collected(self) -> "pl.DataFrame":
        """All rows, in one frame."""
        import polars as pl

        self._flush()
        return pl.concat(self._parts, rechunk=True)

    def _flush(self) -> None:
        import polars as pl

        if self._rows or not self._parts:
            self._parts.append(pl.DataFrame(self._rows, schema=self._schema))
            self._rows = []


def metadata(table: Table) -> dict[str, str]:
    """The metadata that `writer` was given, with name and version of the table."""
    ours = ("ARROW:schema", _MADE_FROM, _NUM_ROWS, seal.KEY)
    return {key: value for key, value in _marks(_open(table)).items() if key not in ours}


def made_from(table: Table) -> dict[str, str]:
    """The digests of the tables that this one was made from, by their names."""
    try:
        found: dict[str, str] = json.loads(_marks(_open(table)).get(_MADE_FROM, "{}"))
    except (ValueError, RecursionError) as error:
        raise _damaged(table, f"{_MADE_FROM} in its metadata is no JSON: {one_line(error)}") from None
    return found


def _marks(file: pq.ParquetFile) -> dict[str, str]:
    """The metadata of a file, ours and those of Parquet's writer."""
    found = file.metadata.metadata or {}
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in found.items()}


def _open(table: Table) -> pq.ParquetFile:
    """Open a file whose digest is right, and whose columns are those of the table."""
    try:
        found, expected = seal.digests(table.path)
        if expected is None:
            raise _damaged(table, f"it holds no digest of its content, as if cut off or not written by {table.stage}")
        if found != expected:
            raise _damaged(table, f"its content has digest {found[:12]}, expected {expected[:12]}")
        file = pq.ParquetFile(table.path, page_checksum_verification=True)
    except FileNotFoundError:
        raise ArtifactError(f"{table}: no such file; run `dvc repro {table.stage}` first") from None
    except _DAMAGE as error:
        raise _damaged(table, one_line(error)) from None
    marks = _marks(file)
    found = f"{marks.get('table', 'no table')} version {marks.get('schema_version', 'unknown')}"
    wanted = f"{table.name} version {table.version}"
    if found != wanted:
        raise ArtifactError(f"{table}: holds {found}, expected {wanted}; run `dvc repro -f {table.stage}`")
    for column in table.schema:
        index = file.schema_arrow.get_field_index(column.name)
        if index < 0 or not file.schema_arrow.field(index).type.equals(column.type):
            kind = "missing" if index < 0 else str(file.schema_arrow.field(index).type)
            raise ArtifactError(
                f"{table}: column {column.name} is {kind}, expected {column.type}; run `dvc repro -f {table.stage}`"
            )
    return file


def _damaged(table: Table, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{table}: damaged ({reason}); delete it and run `dvc checkout {table}` or `dvc repro -f {table.stage}`"
    )
