"""Reads the examples that stage analyze examines: both views, gold chunks, documents, and the methods' answers."""

from itertools import islice
from typing import NamedTuple

import polars as pl

from pipeline.common import tables
from pipeline.common.chunks import Chunk
from pipeline.evaluation import predict, schema
from pipeline.runtime.errors import ArtifactError, DataError

SOURCES = (tables.CHUNKS, tables.FULL_VIEWS, tables.MASKED_VIEWS, tables.SCORES)
"""What is read here, beside the predictions."""


class Pair(NamedTuple):
    """Both views of one example, and for each of its chunks whether it is gold."""

    full: tables.Row
    masked: tables.Row
    gold: list[bool]

    def has_gold_token(self) -> bool:
        """Whether a gold chunk is known and has tokens in the full view."""
        spans = zip(self.full["chunk_starts"], self.full["chunk_ends"], self.gold, strict=True)
        return any(gold and start < end for start, end, gold in spans)


class Longest(NamedTuple):
    """The examples of a split with the most documents."""

    num_documents: int
    context_of: dict[str, list[Chunk]]
    """Example id -> chunks of its context, in order; examples in the order of the file."""


def longest(split: str) -> Longest:
    """Find the examples of the split with the most documents.

    Raises:
        DataError: the split has no examples.
        ArtifactError: one of their chunks is missing.
    """
    found = predict.split_examples(split).filter(pl.col("num_documents") == pl.col("num_documents").max())
    if found.is_empty():
        raise predict.no_examples(split)
    chunk_of = predict.read_chunks(found["chunk_ids"].explode().drop_nulls())
    examples = found.select("example_id", "chunk_ids").iter_rows()
    context_of = {example_id: [chunk_of[name] for name in chunk_ids] for example_id, chunk_ids in examples}
    return Longest(found["num_documents"][0], context_of)


def first(found: Longest, num_examples: int) -> list[Pair]:
    """Read the first of these examples. Raises DataError for fewer than two: they are compared with each other."""
    rows = tables.side_by_side(
        (tables.FULL_VIEWS, None),
        (tables.MASKED_VIEWS, None),
        (tables.SCORES, ["example_id", "chunk_ids", "gold"]),
    )
    wanted = (row for row in rows if row[0]["example_id"] in found.context_of)
    pairs = [Pair(full, masked, scored["gold"]) for full, masked, scored in islice(wanted, num_examples)]
    if len(pairs) < 2:
        raise DataError(
            f"{tables.FULL_VIEWS}: analyze compares the examples with {found.num_documents} documents with each other, "
            f"{len(pairs)} found; give at least 2"
        )
    return pairs


def full_answers(method: str, found: Longest) -> dict[str, tables.Row]:
    """Read the method's predictions for these examples over their full context, by example id.

    Raises:
        ArtifactError: an answer is missing.
    """
    table = schema.predictions_of(method)
    rows = {row["example_id"]: row for row in tables.scan(table) if row["input"] == "full"}
    if missing := found.context_of.keys() - rows.keys():
        raise ArtifactError(
            f"{table}: has no answer to example {min(missing)} over its full context; run `dvc repro -f "
            f"evaluate@{method}`"
        )
    return {example_id: row for example_id, row in rows.items() if example_id in found.context_of}
