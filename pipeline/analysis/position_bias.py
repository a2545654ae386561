"""Does it matter where the gold document stands? A value of each example along the places of the context."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation import bootstrap
from pipeline.evaluation.score import POSITION_BINS

Row = Mapping[str, Any]


def along(
    positions: Sequence[int],
    values: Sequence[float],
    question_ids: Sequence[str],
    num_documents: int,
    *,
    resamples: int,
    seed: int = 0,
) -> dict[str, Any]:
    """Mean by fifth of the context, and two slopes, all with 95 % intervals over questions.

    `positions` are those of the gold documents in contexts of `num_documents`, from 0; -1, unknown, is left out.

        slope       change of the value from the first place to the last, along the least-squares line
        edge_slope  the same from the middle of the context to either end: above 0 is "lost in the middle"

    A slope is None where all known positions are one, or as far from the middle as each other.
    """
    rows = [row for row in zip(positions, values, question_ids, strict=True) if row[0] >= 0 and num_documents > 1]
    parts: dict[int, list[tuple[int, float, str]]] = defaultdict(list)
    for row in rows:
        parts[row[0] * POSITION_BINS // num_documents].append(row)
    places = [position / (num_documents - 1) for position, _, _ in rows]
    found = [value for _, value, _ in rows]
    names = [name for _, _, name in rows]
    slope = bootstrap.slope(places, found, names, resamples=resamples, seed=seed)
    # In whole numbers, so that two places as far from the middle are one.
    edges = [abs(2 * position - num_documents + 1) / (num_documents - 1) for position, _, _ in rows]
    edge_slope = bootstrap.slope(edges, found, names, resamples=resamples, seed=seed)
    return {
        "num_documents": num_documents,
        "num_examples": len(rows),
        "parts": [
            {
                "first_position": min(position for position, _, _ in part),
                "last_position": max(position for position, _, _ in part),
                "num_examples": len(part),
                **bootstrap.interval(
                    [value for _, value, _ in part], [name for *_, name in part], resamples=resamples, seed=seed
                )._asdict(),
            }
            for _, part in sorted(parts.items())
        ],
        "slope": None if slope is None else slope._asdict(),
        "edge_slope": None if edge_slope is None else edge_slope._asdict(),
    }


def of_scores(predictions: Sequence[Row], resamples: int) -> dict[str, Any]:
    """Of one method's answers to contexts of one number of documents: rows of the predictions table."""
    return along(
        [row["gold_position"] for row in predictions],
        [row["score"] for row in predictions],
        [row["question_id"] for row in predictions],
        predictions[0]["num_documents"],
        resamples=resamples,
    )
