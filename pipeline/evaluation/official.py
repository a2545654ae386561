"""The scores that each benchmark's own evaluator prints, over the predictions of one method and input.

    quality     accuracy of the likeliest and of the generated option, over all questions and over the hard subset,
                SAT-style scores, share of answers that name no option (they count as wrong)
    qasper      answer F1, over all questions, by the type of the best-matching reference (official) and by the type of
                the first annotator's (the same questions for every method)
    nq          best-subspan EM (Lost in the Middle; not an exact match), exact match and F1 (SQuAD)
    nq-oracle   exact match and F1 (SQuAD)
    squad       exact match and F1; an unanswerable question is answered by "unanswerable"
    hotpot      exact match, and F1, which is 0 where only one of answer and reference is a yes or no
    longbench   F1
    squality    ROUGE-1, -2 and -L, the best over the references

Other benchmarks have no official evaluator. To add one, write a function of rows and enter it in _EVALUATORS.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.common.tables import Row
from pipeline.evaluation import metrics, multiple_choice, rouge


class OfficialScore(NamedTuple):
    """A mean over `n` questions, from 0 to 1 (SAT-style from -1/3); None where there is no question."""

    value: float | None
    n: int


OfficialScores = dict[str, OfficialScore]
Figures = dict[str, float | None]

_COUNTED = {"accuracy_hard_likeliest": "num_hard"} | {
    f"answer_f1_first_{kind}": f"num_first_{kind}" for kind in metrics.TYPES
}
"""Score over a part of the questions -> the name under which `figures` counts these questions."""


def scores(rows: Sequence[Row]) -> OfficialScores:
    """Compute the official scores of one benchmark's rows of predictions; empty without rows or official evaluator."""
    benchmark = rows[0]["benchmark"] if rows else ""
    return _EVALUATORS[benchmark](rows) if benchmark in _EVALUATORS else {}


def figures(rows: Sequence[Row]) -> Figures:
    """Compute the values of `scores`, and the number of questions in each subset (hard ones, types of answer)."""
    found = scores(rows)
    counts = {_COUNTED[name]: score.n for name, score in found.items() if name in _COUNTED}
    return {name: score.value for name, score in found.items()} | counts


def mean(values: Sequence[float]) -> OfficialScore:
    """Average the values of some questions."""
    return OfficialScore(sum(values) / len(values) if values else None, len(values))


def column_means(*columns: str) -> Callable[[Sequence[Row]], OfficialScores]:
    """Make an evaluator that averages columns of the rows."""
    return lambda rows: {name: mean([row[name] for row in rows]) for name in columns}


def _quality(rows: Sequence[Row]) -> OfficialScores:
    references = {
        row["example_id"]: {"gold_label": row["gold_option"] + 1, "difficult": int(row["subset"] == "hard")}
        for row in rows
    }
    found: OfficialScores = {}
    for name, column in (("likeliest", "likeliest_option"), ("generated", "generated_option")):
        # Labels count from 1. Label 0 is no option: an answer that names none is wrong and does not abstain.
        labels = {row["example_id"]: row[column] + 1 for row in rows}
        total = multiple_choice.quality_accuracy(labels, references)
        for kind in ("accuracy", "sat_style"):
            for hard in ("", "_hard"):
                found[f"{kind}{hard}_{name}"] = OfficialScore(total[f"{kind}{hard}"], total[f"n{hard}"])
    return found | {"unparseable": mean([float(row["generated_option"] == -1) for row in rows])}


def _qasper(rows: Sequence[Row]) -> OfficialScores:
    booked: dict[str, list[float]] = defaultdict(list)
    first: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        f1 = [metrics.qasper_token_f1(row["prediction"], [answer]) for answer in row["answers"]]
        best = max(range(len(f1)), key=lambda place: f1[place])  # ties go to the first annotator
        booked[f"answer_f1_booked_{row['answer_types'][best]}"].append(f1[best])
        first[f"answer_f1_first_{row['answer_types'][0]}"].append(f1[best])
    by_type = {name: mean(values) for values_of in (booked, first) for name, values in sorted(values_of.items())}
    return {"answer_f1": mean([row["score"] for row in rows]), **by_type}


def _hotpot(rows: Sequence[Row]) -> OfficialScores:
    f1 = [metrics.hotpot_f1(row["prediction"], row["answers"]) for row in rows]
    return {"exact_match": mean([row["exact_match"] for row in rows]), "answer_f1": mean(f1)}


def _squality(rows: Sequence[Row]) -> OfficialScores:
    found = [rouge.rouge(row["prediction"], row["answers"]) for row in rows]
    return {name: mean([scores[name] for scores in found]) for name in ("rouge_1", "rouge_2", "rouge_l")}


_EVALUATORS: dict[str, Callable[[Sequence[Row]], OfficialScores]] = {
    "quality": _quality,
    "qasper": _qasper,
    "nq": column_means("best_subspan_em", "exact_match", "token_f1"),
    **dict.fromkeys(("nq-oracle", "squad"), column_means("exact_match", "token_f1")),
    "hotpot": _hotpot,
    "longbench": column_means("score"),
    "squality": _squality,
}
