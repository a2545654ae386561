"""Probes of answers: kinds of errors, agreement of the two views, and bias by the place of the gold document."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import polars as pl

from pipeline.common.tables import Row
from pipeline.common.text import normalize
from pipeline.evaluation import bootstrap, metrics, multiple_choice, score

Kind = Literal["correct", "distraction", "in_gold", "in_context", "hallucinated", "no_answer", "wrong_option"]
KINDS: tuple[Kind, ...] = get_args(Kind)
OUTCOMES = {
    "both_right": (True, True),
    "only_full_right": (True, False),
    "only_masked_right": (False, True),
    "both_wrong": (False, False),
}
"""Outcome -> whether the answers to the full and to the masked view are right."""


def kind(prediction: Row, context_texts: Iterable[str]) -> Kind:
    """Classify a row of predictions, finer than its `error`, with the text of each document of the full context.

    correct       the row's `error` is correct
    distraction   the row's `error` is distraction: the wrong answer is in a distractor
    in_gold       the wrong answer is in no distractor but in the context, so in a gold document: the wrong attribute of
                  the right document
    in_context    the same where the gold document is unknown: no document counts as a distractor
    hallucinated  the wrong answer is nowhere in the context
    no_answer     the answer has no words
    wrong_option  a multiple-choice question has only right and wrong options
    """
    if prediction["error"] == "correct":
        return "correct"
    if prediction["error"] == "distraction":
        return "distraction"
    if prediction["options"]:
        return "wrong_option"
    if not normalize(prediction["prediction"]):
        return "no_answer"
    if not any(metrics.is_in(text, prediction["prediction"]) for text in context_texts):
        return "hallucinated"
    return "in_gold" if prediction["gold_position"] >= 0 else "in_context"


def kind_shares(kinds: Sequence[Kind], question_ids: Sequence[str], resamples: int) -> dict[str, Any]:
    """Compute the share of each kind among all answers, with 95 % intervals over questions; they add up to 1."""
    frame = pl.DataFrame({"question_id": question_ids, "kind": kinds})
    frame = frame.with_columns((pl.col("kind") == name).cast(pl.Float64).alias(name) for name in KINDS)
    return {"num_examples": len(kinds), **{name: score.interval(frame, name, resamples) for name in KINDS}}


def compare(masked_answers: Sequence[str], full: Sequence[Row], resamples: int) -> dict[str, Any]:
    """Compare answers to the masked views with the rows of predictions for the full views, in the same order.

    The method assumes that both views of an example mean the same. `answers_equal`, `masked_score` and `full_score` are
    means over the examples with 95 % intervals in `intervals`; scores are those of the generated answer. `outcomes` are
    shares that add up to 1, with intervals; right is an exact match, or naming the right option.
    """
    pairs = list(zip(masked_answers, full, strict=True))
    right = [(_right(row["prediction"], row), _right(answer, row)) for answer, row in pairs]
    frame = pl.DataFrame(
        {
            "question_id": [row["question_id"] for row in full],
            "answers_equal": [float(normalize(answer) == normalize(row["prediction"])) for answer, row in pairs],
            "masked_score": [score.generated_score(answer, row) for answer, row in pairs],
            "full_score": [score.generated_score(row["prediction"], row) for _, row in pairs],
            **{name: [float(found == outcome) for found in right] for name, outcome in OUTCOMES.items()},
        }
    )
    intervals = {name: score.interval(frame, name, resamples) for name in frame.columns if name != "question_id"}
    outcomes = {name: intervals.pop(name) for name in OUTCOMES}
    return {**{name: of["mean"] for name, of in intervals.items()}, "intervals": intervals, "outcomes": outcomes}


def _right(answer: str, row: Row) -> bool:
    if row["options"]:
        return multiple_choice.parse_option(answer, row["options"]) == int(row["gold_option"])
    return metrics.exact_match(answer, row["answers"]) == 1.0


def by_position(
    positions: Sequence[int],
    values: Sequence[float],
    question_ids: Sequence[str],
    num_documents: int,
    *,
    resamples: int,
) -> dict[str, Any]:
    """Average a value by fifth of the context, and fit two slopes, all with 95 % intervals over questions.

    `positions` are those of the gold documents in contexts of `num_documents`, from 0; unknown ones, -1, are left out.

        slope       change of the value from the first place to the last, along the least-squares line
        edge_slope  change from the middle of the context to either end: above 0 is "lost in the middle"

    A slope is None where all known positions are one, or equally far from the middle.
    """
    columns = {"position": positions, "value": values, "question_id": question_ids}
    frame = pl.DataFrame(columns, schema_overrides={"value": pl.Float64})
    frame = frame.filter(pl.col("position") >= 0, num_documents > 1)
    frame = frame.with_columns(part=pl.col("position") * score.POSITION_BINS // num_documents)

    def slope(places: Sequence[float]) -> dict[str, float] | None:
        found = bootstrap.slope(places, frame["value"].to_list(), frame["question_id"].to_list(), resamples=resamples)
        return None if found is None else found._asdict()

    return {
        "num_documents": num_documents,
        "num_examples": len(frame),
        "parts": [
            {
                "first_position": part["position"].min(),
                "last_position": part["position"].max(),
                "num_examples": len(part),
                **score.interval(part, "value", resamples),
            }
            for _, part in score.groups(frame, "part")
        ],
        "slope": slope([position / (num_documents - 1) for position in frame["position"]]),
        # 2 * position is a whole number, so that two places equally far from the middle have equal values.
        "edge_slope": slope(
            [abs(2 * position - num_documents + 1) / (num_documents - 1) for position in frame["position"]]
        ),
    }
