"""What each benchmark's own evaluator prints, over the predictions of one method and input.

    quality     accuracy of the likeliest and of the generated option, over all and over the hard subset, SAT-style
                scores, share of answers that name no option (each counts as wrong)
    qasper      answer F1, over all, by the type of the reference that matched best (official) and by the type of the
                first annotator's (stable: the same questions for every method)
    nq          best-subspan EM (Lost in the Middle; not an exact match), exact match and F1 (SQuAD)
    hotpot      exact match and F1, which is 0 where only one of answer and reference is a yes or no
    longbench   F1
    squality    ROUGE-1, -2 and -L, the best over the references

Other benchmarks have no official evaluator. Scores are shares from 0 to 1; counts are whole numbers.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.evaluation import metrics

Row = Mapping[str, Any]
Figures = dict[str, float | None]


def rouge_l(prediction: str, references: Sequence[str]) -> float:
    """ROUGE-L of one summary, the best over the references."""
    return _rouge(prediction, references)["rouge_l"]


def figures(rows: Sequence[Row]) -> Figures:
    """By name; empty where the benchmark has no official evaluator. `rows` are of one benchmark."""
    benchmark = rows[0]["benchmark"] if rows else ""
    return _FIGURES[benchmark](rows) if benchmark in _FIGURES else {}


def _quality(rows: Sequence[Row]) -> Figures:
    hard = {row["example_id"]: int(row["subset"] == "hard") for row in rows}
    references = {
        row["example_id"]: {"gold_label": row["gold_option"] + 1, "difficult": hard[row["example_id"]]} for row in rows
    }
    found: Figures = {}
    for name, column in (("likeliest", "likeliest_option"), ("generated", "generated_option")):
        # Labels count from 1; 0 is the label of no option: an answer that names none is wrong, no abstention.
        labels = {row["example_id"]: row[column] + 1 for row in rows}
        scores = metrics.quality_accuracy(labels, references)
        found |= {f"{key}_{name}": scores[key] for key in ("accuracy", "accuracy_hard", "sat_style", "sat_style_hard")}
    found["unparseable"] = _mean([float(row["generated_option"] < 0) for row in rows])
    found["num_hard"] = sum(hard.values())
    return found


def _qasper(rows: Sequence[Row]) -> Figures:
    booked: dict[str, list[float]] = defaultdict(list)
    stable: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        scores = [metrics.qasper_token_f1(row["prediction"], [answer]) for answer in row["answers"]]
        best = max(range(len(scores)), key=lambda place: scores[place])  # ties to the first annotator
        booked[row["answer_types"][best]].append(scores[best])
        stable[row["answer_types"][0]].append(scores[best])
    types = sorted(stable)
    return {
        "answer_f1": _mean([row["score"] for row in rows]),
        **{f"answer_f1_booked_{kind}": _mean(booked[kind]) for kind in sorted(booked)},
        **{f"answer_f1_first_{kind}": _mean(stable[kind]) for kind in types},
        **{f"num_first_{kind}": len(stable[kind]) for kind in types},
    }


def _hotpot(rows: Sequence[Row]) -> Figures:
    f1 = [metrics.hotpot_f1(row["prediction"], row["answers"]) for row in rows]
    return {"exact_match": _mean([row["exact_match"] for row in rows]), "answer_f1": _mean(f1)}


def _squality(rows: Sequence[Row]) -> Figures:
    scores = [_rouge(row["prediction"], row["answers"]) for row in rows]
    return {name: _mean([found[name] for found in scores]) for name in ("rouge_1", "rouge_2", "rouge_l")}


def _columns(*names: str) -> Callable[[Sequence[Row]], Figures]:
    return lambda rows: {name: _mean([row[name] for row in rows]) for name in names}


_FIGURES: dict[str, Callable[[Sequence[Row]], Figures]] = {
    "quality": _quality,
    "qasper": _qasper,
    "nq": _columns("best_subspan_em", "exact_match", "token_f1"),
    "hotpot": _hotpot,
    "longbench": _columns("score"),
    "squality": _squality,
}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    # Here, because the library takes long to import and only summaries need it.
    from pipeline.evaluation import rouge

    scores: dict[str, float] = rouge.rouge(prediction, references)
    return scores
