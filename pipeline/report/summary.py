"""From predictions to one summary: the measures by method, by context length and by place of the gold document.

Method names are the files evaluate wrote; those of methods.py come first, in its order, others follow by name. The unit
of every measure is one example; differences are paired by example, against vanilla on the full context; intervals
resample questions.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.methods import METHODS
from pipeline.evaluation import bootstrap, official
from pipeline.report import paper
from pipeline.report.ranges import Range, ranges
from pipeline.runtime.errors import ArtifactError
from pipeline.views import tasks

REFERENCE = ("vanilla", "full")
COLUMNS = (
    "example_id", "question_id", "benchmark", "method", "input", "num_documents", "gold_position", "prompt_tokens",
    "prediction", "answers", "answer_types", "subset", "gold_option", "generated_option", "likeliest_option", "score",
    "exact_match", "token_f1", "best_subspan_em", "error", "distractor_id",
)  # fmt: skip

Prediction = dict[str, Any]


@dataclass(frozen=True)
class Measured:
    """One method with one input on one group of examples; rates are shares of all answers, from 0 to 1."""

    method: str
    input: str
    group: str
    num_examples: int
    score: bootstrap.Interval
    """By the benchmark's own measure."""
    exact_match: float
    token_f1: float
    best_subspan_em: float
    correct_rate: float
    distraction_rate: float
    other_rate: float
    mean_prompt_tokens: float
    to_vanilla: bootstrap.PairedDifference | None
    """Score minus that of vanilla on the full context, same examples."""

    @property
    def name(self) -> str:
        return row_name(self.method, self.input)


@dataclass(frozen=True)
class Summary:
    """Everything measured on the predictions."""

    benchmarks: list[str]
    measure: str
    """What `score` is."""
    num_examples: int
    """Of one method and input, all lengths together."""
    num_questions: int
    lengths: list[Range]
    """Numbers of documents, shortest first; the last one is the longest context."""
    longest: list[Measured]
    """In the order of the table."""
    by_length: list[Measured]
    by_position: list[Measured]
    """At the longest context; positions count from 1. Empty when the gold documents are unknown."""
    official: dict[str, official.Figures]
    """By name of the table's row, over all lengths: what the benchmark's own evaluator prints; may be empty."""

    @property
    def documents(self) -> str:
        """Documents of the longest context, in words."""
        label = self.lengths[-1].label()
        return "1 document" if label == "1" else f"{label} documents"


def summarise(predictions: Iterable[Prediction], *, resamples: int, seed: int = 0) -> Summary:
    """Measure every method and input.

    Args:
        predictions: rows with COLUMNS, of all methods.
        resamples: of each bootstrap.

    Raises:
        ArtifactError: no predictions, an example answered twice, or methods that answered different examples.
    """
    rows_of = _by_row(predictions)
    examples = next(iter(rows_of.values()))
    lengths = ranges([row["num_documents"] for row in examples.values()], most=6, parts=4)
    placed = [
        row["gold_position"]
        for row in examples.values()
        if row["num_documents"] >= lengths[-1].low and row["gold_position"] >= 0
    ]
    positions = ranges(placed, most=6, parts=3)
    by_length: list[Measured] = []
    by_position: list[Measured] = []
    for length in lengths:
        chosen = [key for key, row in examples.items() if length.low <= row["num_documents"] <= length.high]
        by_length += _measure_all(rows_of, chosen, length.label(), resamples, seed)
    for place in positions:
        chosen = [
            key
            for key, row in examples.items()
            if row["num_documents"] >= lengths[-1].low and place.low <= row["gold_position"] <= place.high
        ]
        by_position += _measure_all(rows_of, chosen, place.label(shift=1), resamples, seed)
    benchmarks = sorted({row["benchmark"] for row in examples.values()})
    return Summary(
        benchmarks=benchmarks,
        measure=tasks.of(benchmarks[0]).measure,
        num_examples=len(examples),
        num_questions=len({row["question_id"] for row in examples.values()}),
        lengths=lengths,
        longest=by_length[-len(rows_of) :],
        by_length=by_length,
        by_position=by_position,
        official={
            row_name(method, given): official.figures(list(answered.values()))
            for (method, given), answered in rows_of.items()
        },
    )


def row_name(method: str, given: str) -> str:
    """Retrieval at inference is said, the full context goes without saying."""
    return method if given == "full" else f"{method} + {given}"


def method_order(method: str) -> tuple[int, str]:
    """Sort key: the order of methods.py, then the others by name."""
    return (list(METHODS).index(method) if method in METHODS else len(METHODS), method)


def _by_row(predictions: Iterable[Prediction]) -> dict[tuple[str, str], dict[str, Prediction]]:
    """(method, input) -> example_id -> prediction, in the order of the table."""
    found: dict[tuple[str, str], dict[str, Prediction]] = defaultdict(dict)
    for row in predictions:
        answered = found[row["method"], row["input"]]
        if row["example_id"] in answered:
            raise ArtifactError(
                f"predictions of {row['method']} answer example {row['example_id']} twice ({row['input']} input); "
                f"run `dvc repro -f evaluate@{row['method']}`"
            )
        answered[row["example_id"]] = row
    if not found:
        raise ArtifactError("no predictions to report; the split of eval.split may be empty, see reports/prepare.json")
    ordered = dict(sorted(found.items(), key=lambda item: (method_order(item[0][0]), item[0][1] != "full", item[0][1])))
    first, *others = ordered
    for other in others:
        if differing := ordered[first].keys() ^ ordered[other].keys():
            raise ArtifactError(
                f"predictions of {' on '.join(first)} and {' on '.join(other)} input answer different examples "
                f"({len(differing):,}, {min(differing)} is one); run `dvc repro -f evaluate@{other[0]}`"
            )
    return ordered


def _measure_all(
    rows_of: dict[tuple[str, str], dict[str, Prediction]], chosen: list[str], group: str, resamples: int, seed: int
) -> list[Measured]:
    """Every method and input on the examples `chosen`."""
    measured = []
    for (method, given), answered in rows_of.items():
        rows = [answered[key] for key in chosen]
        questions = [row["question_id"] for row in rows]
        scores = _column(rows, "score")
        to_vanilla = None
        if (method, given) != REFERENCE and REFERENCE in rows_of:
            reference = _column([rows_of[REFERENCE][key] for key in chosen], "score")
            to_vanilla = bootstrap.paired_difference(scores, reference, questions, resamples=resamples, seed=seed)
        errors = [row["error"] for row in rows]
        measured.append(
            Measured(
                method=method,
                input=given,
                group=group,
                num_examples=len(rows),
                score=bootstrap.interval(scores, questions, resamples=resamples, seed=seed),
                exact_match=float(_column(rows, "exact_match").mean()),
                token_f1=float(_column(rows, "token_f1").mean()),
                best_subspan_em=float(_column(rows, "best_subspan_em").mean()),
                correct_rate=errors.count("correct") / len(rows),
                distraction_rate=errors.count("distraction") / len(rows),
                other_rate=errors.count("other") / len(rows),
                mean_prompt_tokens=float(_column(rows, "prompt_tokens").mean()),
                to_vanilla=to_vanilla,
            )
        )
    return measured


def _column(rows: list[Prediction], name: str) -> NDArray[np.float64]:
    values = np.array([row[name] for row in rows], dtype=np.float64)
    if not np.isfinite(values).all():
        row = rows[int(np.flatnonzero(~np.isfinite(values))[0])]
        raise ArtifactError(
            f"predictions of {row['method']}: {name} of example {row['example_id']} is no number; "
            f"run `dvc repro -f evaluate@{row['method']}`"
        )
    return values


def record(summary: Summary, sources: dict[str, Any]) -> dict[str, Any]:
    """The summary as JSON; rates and scores from 0 to 1.

    The top is flat numbers by method, which `dvc metrics` shows side by side; it leaves lists alone, so the rest is
    lists: the three groupings, the paper's figures (percent) and `sources`, the stages' own figures by file name.
    """
    longest = {measured.name.replace(" + ", "_"): measured for measured in summary.longest}
    return {
        "num_examples": summary.longest[0].num_examples,
        "measure": summary.measure,
        "score": {name: measured.score.mean for name, measured in longest.items()},
        "exact_match": {name: measured.exact_match for name, measured in longest.items()},
        "token_f1": {name: measured.token_f1 for name, measured in longest.items()},
        "best_subspan_em": {name: measured.best_subspan_em for name, measured in longest.items()},
        "distraction_rate": {name: measured.distraction_rate for name, measured in longest.items()},
        "difference_to_vanilla": {
            name: measured.to_vanilla.difference for name, measured in longest.items() if measured.to_vanilla
        },
        "benchmarks": summary.benchmarks,
        "longest": [_record(measured) for measured in summary.longest],
        "by_num_documents": [_record(measured) for measured in summary.by_length],
        "by_gold_position": [_record(measured) for measured in summary.by_position],
        "official": [{"name": name, "values": values} for name, values in summary.official.items()],
        "paper": list(paper.FIGURES),
        "sources": [{"file": name, "values": values} for name, values in sources.items()],
    }


def _record(measured: Measured) -> dict[str, Any]:
    to_vanilla = measured.to_vanilla
    return {
        **asdict(measured),
        "score": measured.score._asdict(),
        "to_vanilla": None if to_vanilla is None else to_vanilla._asdict(),
    }
