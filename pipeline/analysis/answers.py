"""What kind of answer each prediction is: finer than the `error` that evaluate wrote, and from the same texts.

The method assumes that both views of an example mean the same: are they answered the same, and both rightly?

Does it matter where the gold document stands? A value of each example along the places of the context.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from pipeline.common.tables import Row
from pipeline.common.text import normalize
from pipeline.evaluation import bootstrap, metrics, score
from pipeline.evaluation.score import POSITION_BINS

Kind = Literal["correct", "distraction", "in_gold", "in_context", "hallucinated", "no_answer", "wrong_option"]
KINDS: tuple[Kind, ...] = (
    "correct",
    "distraction",
    "in_gold",
    "in_context",
    "hallucinated",
    "no_answer",
    "wrong_option",
)


def kind(prediction: Row, context_texts: Iterable[str]) -> Kind:
    """Of one row of the predictions table, with the text of each document of the context it was asked over.

    correct       as evaluate says
    distraction   the wrong answer stands in a distractor, as evaluate says
    in_gold       it stands in no distractor, but in the context: in a gold document, so the wrong attribute of the
                  right one (where the gold document is unknown, no document is a distractor: in any of them)
    hallucinated  it stands nowhere in the context
    no_answer     it has no words
    wrong_option  of a multiple-choice question, where only the option counts
    """
    if prediction["error"] == "correct":
        return "correct"
    if prediction["error"] == "distraction":
        return "distraction"
    if prediction["options"]:
        return "wrong_option"
    if not normalize(prediction["prediction"]):
        return "no_answer"
    found = any(metrics.stands_in(text, prediction["prediction"]) for text in context_texts)
    if not found:
        return "hallucinated"
    return "in_gold" if prediction["gold_position"] >= 0 else "in_context"


def shares(kinds: Sequence[Kind], question_ids: Sequence[str], resamples: int) -> dict[str, Any]:
    """The share of each kind among all answers, with 95 % intervals over questions; the shares add up to 1."""
    return {
        "num_examples": len(kinds),
        **{
            name: bootstrap.interval(
                [float(found == name) for found in kinds], question_ids, resamples=resamples, seed=0
            )._asdict()
            for name in KINDS
        },
    }


OUTCOMES = ("both_right", "only_full_right", "only_masked_right", "both_wrong")


def compare(masked_answers: Sequence[str], full: Sequence[Row], resamples: int) -> dict[str, Any]:
    """Answers to the masked views beside the rows of the predictions table for the full ones, in the same order.

    `answers_equal`, `masked_score` and `full_score` are means over the examples, their 95 % intervals stand in
    `intervals`; scores are those of the generated answer. `outcomes` are shares that add up to 1, with intervals; right
    is an exact match, or naming the right option.
    """
    pairs = list(zip(masked_answers, full, strict=True))
    right = [(_right(row["prediction"], row), _right(answer, row)) for answer, row in pairs]
    wanted = ((True, True), (True, False), (False, True), (False, False))
    values: dict[str, list[float]] = {
        "answers_equal": [float(normalize(answer) == normalize(row["prediction"])) for answer, row in pairs],
        "masked_score": [score.generated_score(answer, row) for answer, row in pairs],
        "full_score": [score.generated_score(row["prediction"], row) for _, row in pairs],
    }
    question_ids = [row["question_id"] for row in full]

    def interval(of: Sequence[float]) -> dict[str, float]:
        return bootstrap.interval(of, question_ids, resamples=resamples, seed=0)._asdict()

    intervals = {name: interval(of) for name, of in values.items()}
    return {
        **{name: found["mean"] for name, found in intervals.items()},
        "intervals": intervals,
        "outcomes": {
            name: interval([float(pair == both) for pair in right]) for name, both in zip(OUTCOMES, wanted, strict=True)
        },
    }


def _right(answer: str, row: Row) -> bool:
    if row["options"]:
        return metrics.parse_option(answer, row["options"]) == int(row["gold_option"])
    return metrics.exact_match(answer, row["answers"]) == 1.0


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
