"""The method assumes that both views of an example mean the same: are they answered the same, and both rightly?"""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation import bootstrap, metrics, score

Row = Mapping[str, Any]
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
        "answers_equal": [
            float(metrics.normalize(answer) == metrics.normalize(row["prediction"])) for answer, row in pairs
        ],
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
