"""The examples that analyze looks into, with what other stages know of them: both views, chunks, answers."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from pipeline.common import tables
from pipeline.evaluation import schema, score
from pipeline.runtime.errors import ArtifactError, DataError

FULL, MASKED = Path("data/views/full.parquet"), Path("data/views/masked.parquet")
SCORES, CHUNKS = Path("data/scores.parquet"), Path("data/chunks.parquet")
PREDICTIONS = Path("reports/predictions")


class Pair(NamedTuple):
    """Both views of one example, and which of its chunks are gold."""

    full: tables.Row
    masked: tables.Row
    gold: list[bool]


class Longest(NamedTuple):
    """The examples of a split with the most documents."""

    num_documents: int
    chunk_ids_of: dict[str, list[str]]
    """Example -> its context, in the order of the file."""
    chunk_of: dict[str, tables.Row]
    """Every chunk of these contexts."""

    def context(self, example_id: str) -> list[tables.Row]:
        """The chunks of an example's context, in order."""
        return [self.chunk_of[chunk_id] for chunk_id in self.chunk_ids_of[example_id]]

    def texts(self, example_id: str) -> list[str]:
        """Of the documents of an example's context."""
        return list(score.document_texts(self.context(example_id)).values())


def longest(split: str) -> Longest:
    """Raises DataError when the split has no examples, ArtifactError when a chunk of theirs is not there."""
    columns = ["example_id", "split", "num_documents", "chunk_ids"]
    most = 0
    chunk_ids_of: dict[str, list[str]] = {}
    for row in tables.scan(FULL, tables.FULL_VIEWS, columns):
        if row["split"] == split and row["num_documents"] >= most:
            if row["num_documents"] > most:
                most, chunk_ids_of = row["num_documents"], {}
            chunk_ids_of[row["example_id"]] = row["chunk_ids"]
    if not chunk_ids_of:
        raise DataError(
            f"{FULL}: no examples in split {split}; choose another eval.split, or give the data questions of this one"
        )
    wanted = {chunk_id for chunk_ids in chunk_ids_of.values() for chunk_id in chunk_ids}
    chunk_of = {row["chunk_id"]: row for row in tables.scan(CHUNKS, tables.CHUNKS) if row["chunk_id"] in wanted}
    if missing := wanted - chunk_of.keys():
        raise ArtifactError(f"{CHUNKS}: has no chunk {min(missing)}, which {FULL} names; run `dvc repro tokenize`")
    return Longest(most, chunk_ids_of, chunk_of)


def first(found: Longest, num_examples: int) -> list[Pair]:
    """The first of these examples. Raises DataError for fewer than two: they are compared with each other."""
    pairs = list(islice(_pairs(found), num_examples))
    if len(pairs) < 2:
        raise DataError(
            f"{FULL}: analyze compares the examples with {found.num_documents} documents with each other, "
            f"{len(pairs)} found; give at least 2"
        )
    return pairs


def _pairs(found: Longest) -> Iterator[Pair]:
    rows = tables.side_by_side(
        (FULL, tables.FULL_VIEWS, None),
        (MASKED, tables.MASKED_VIEWS, None),
        (SCORES, tables.SCORES, ["example_id", "chunk_ids", "gold"]),
    )
    for full, masked, scored in rows:
        if full["example_id"] in found.chunk_ids_of:
            yield Pair(full, masked, scored["gold"])


def answered() -> list[str]:
    """Every method that has a file of predictions, trained by the graph or put there by hand."""
    return [path.stem for path in sorted(PREDICTIONS.glob("*.parquet"))]


def full_answers(method: str, found: Longest) -> dict[str, tables.Row]:
    """What the method answered to these examples over their full context, by example.

    Raises:
        ArtifactError: an answer is missing.
    """
    path = PREDICTIONS / f"{method}.parquet"
    rows = {
        row["example_id"]: row
        for row in tables.scan(path, schema.PREDICTIONS)
        if row["input"] == "full" and row["example_id"] in found.chunk_ids_of
    }
    if missing := found.chunk_ids_of.keys() - rows.keys():
        raise ArtifactError(
            f"{path}: has no answer to example {min(missing)} over its full context; run `dvc repro -f "
            f"evaluate@{method}`"
        )
    return rows
