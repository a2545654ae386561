"""The full view x of an example: token ids of the whole context, question and answer."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import polars as pl

from pipeline.common.tables import Evidence, gold_flags

Ids = Sequence[int]

Cut = Literal["cut_end", "cut_middle"]
"""Values of context.too_long: where a context loses tokens."""


class Context(NamedTuple):
    """Token ids up to the question, and the token span of each chunk; questions may share it (views/layout.py)."""

    input_ids: list[int]
    chunk_starts: list[int]
    chunk_ends: list[int]


class FullView(NamedTuple):
    """Token ids of context, question, answer and EOS; token span of each chunk; where question and answer begin.

    The view of an unlabelled question ends with the question.
    """

    input_ids: list[int]
    chunk_starts: list[int]
    chunk_ends: list[int]
    question_start: int
    prompt_end: int


def cut(laid: Context, max_tokens: int, where: Cut) -> Context:
    """Truncate the context to `max_tokens` tokens; BOS, instruction and the last token (a line end) always stay.

    `cut_end` leaves out the last chunks' tokens, `cut_middle` those in the middle of all chunks, as LongBench does.
    Spans of chunks that are gone are empty.
    """
    excess = len(laid.input_ids) - max_tokens
    if excess <= 0 or not laid.chunk_starts:
        return laid
    first = laid.chunk_starts[0]
    kept = len(laid.input_ids) - first - excess
    assert kept > 0, "the caller knows that the question leaves room for a context"
    start = first + (kept - 1 if where == "cut_end" else kept // 2)

    def moved(place: int) -> int:
        return min(place, start) if place < start + excess else place - excess

    ids = laid.input_ids[:start] + laid.input_ids[start + excess :]
    return Context(ids, [moved(place) for place in laid.chunk_starts], [moved(place) for place in laid.chunk_ends])


def full_view(laid: Context, question_ids: Ids, answer_ids: Ids, eos_id: int) -> FullView:
    """Context, question and answer in one row; without an answer there is no EOS either."""
    prompt = [*laid.input_ids, *question_ids]
    labels = [*answer_ids, eos_id] if answer_ids else []
    return FullView([*prompt, *labels], laid.chunk_starts, laid.chunk_ends, len(laid.input_ids), len(prompt))


def sizes(
    view: FullView, whole: Context, laid: Context, spans: Iterable[tuple[str, int, int]], evidence: list[Evidence]
) -> dict[str, Any]:
    """Measure a full view: its context before and after truncation, its chunks as (document_id, start, end)."""
    flags = list(gold_flags(spans, evidence))
    places = zip(flags, whole.chunk_starts, whole.chunk_ends, laid.chunk_starts, laid.chunk_ends, strict=True)
    return {
        "tokens": len(view.input_ids),
        "cut": len(laid.input_ids) < len(whole.input_ids),
        "gold_known": any(flags),
        "gold_cut": any(flag and cut_end - cut_start < end - start for flag, start, end, cut_start, cut_end in places),
    }


def lengths(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """Average `sizes`, each with its split, over the examples of each split.

    `cut` is the share of rows whose context was truncated; `gold_cut` is the share of rows that lost tokens of a gold
    chunk among those with a known gold chunk, None where there is none.
    """
    found = rows.group_by("split", maintain_order=True).agg(
        num_examples=pl.len(),
        mean_tokens=pl.col("tokens").mean(),
        max_tokens=pl.col("tokens").max(),
        cut=pl.col("cut").mean(),
        gold_cut=pl.col("gold_cut").filter("gold_known").mean(),
    )
    return {row.pop("split"): row for row in found.iter_rows(named=True)}
