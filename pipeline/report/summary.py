"""Summarises predictions: every measure by method, by length of the context and by position of the gold document.

A method is named after the predictions file that evaluate wrote. The methods of runtime/methods.py come first, in its
order; others follow by name. Measures are means over examples. Differences from vanilla on the full context are paired
by example, and intervals resample questions.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.evaluation import bootstrap, official
from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.methods import METHODS
from pipeline.views import tasks

REFERENCE = ("vanilla", "full")
COLUMNS = (
    "example_id", "question_id", "benchmark", "method", "input", "num_documents", "gold_position", "prompt_tokens",
    "prediction", "answers", "answer_types", "subset", "gold_option", "generated_option", "likeliest_option", "score",
    "exact_match", "token_f1", "best_subspan_em", "error", "distractor_id",
)  # fmt: skip
"""Columns of the predictions that the report reads."""
_MEANS = ("exact_match", "token_f1", "best_subspan_em")
_SHARES = (*_MEANS, "distraction_rate")

PAPER = (
    {"benchmark": "QuALITY", "metric": "accuracy", "vanilla": 47.17, "retrieval": 50.14, "focused": 51.39},
    {"benchmark": "Qasper", "metric": "F1", "vanilla": 48.65, "retrieval": None, "focused": 59.62},
)
"""Results of the paper, in percent (arXiv 2411.05928, Mistral-7B), shown beside ours. None: we do not know it."""


class Range(NamedTuple):
    """Consecutive whole numbers from low to high, both included."""

    low: int
    high: int

    def label(self, shift: int = 0) -> str:
        low, high = self.low + shift, self.high + shift
        return f"{low}" if low == high else f"{low}\N{EN DASH}{high}"

    def documents(self) -> str:
        """Say that there are so many documents."""
        return f"{self.label()} document{'s' * (self.high != 1)}"


def ranges(values: Sequence[int], *, most: int, parts: int) -> list[Range]:
    """Group whole numbers for the axis of a figure.

    Up to `most` distinct values are one range each. More of them become at most `parts` ranges with about equally many
    values. No range holds less than half of its even share, because claims are about the range of longest contexts.
    """
    distinct = sorted(set(values))
    if len(distinct) <= most:
        return [Range(value, value) for value in distinct]
    num_below = {value: sum(other < value for other in values) for value in distinct}
    cuts = [len(values) * part / parts for part in range(parts)]
    starts = sorted({min(distinct, key=lambda value: abs(num_below[value] - cut)) for cut in cuts})
    ends = [max(value for value in distinct if value < start) for start in starts[1:]] + [distinct[-1]]
    found = [Range(low, high) for low, high in zip(starts, ends, strict=True)]
    while len(found) > 1:
        sizes = [sum(low <= value <= high for value in values) for low, high in found]
        smallest = sizes.index(min(sizes))
        if sizes[smallest] >= len(values) / (2 * parts):
            break
        neighbours = [index for index in (smallest - 1, smallest + 1) if 0 <= index < len(found)]
        first, second = sorted((smallest, min(neighbours, key=lambda index: sizes[index])))
        found[first : second + 1] = [Range(found[first].low, found[second].high)]
    return found


@dataclass(frozen=True)
class Measured:
    """The measures of one method with one input on one group of examples; rates are shares of all answers, 0 to 1."""

    method: str
    input: str
    group: str
    num_examples: int
    score: bootstrap.Interval
    """The benchmark's own measure."""
    exact_match: float
    token_f1: float
    best_subspan_em: float
    correct_rate: float
    distraction_rate: float
    other_rate: float
    mean_prompt_tokens: float
    to_vanilla: bootstrap.PairedDifference | None
    """Score minus the score of vanilla on the full context, on the same examples."""

    @property
    def name(self) -> str:
        return row_name(self.method, self.input)

    @property
    def key(self) -> str:
        """Name of the row in JSON and CSV files."""
        return self.name.replace(" + ", "_")


@dataclass(frozen=True)
class Summary:
    """All measures of one run."""

    benchmarks: list[str]
    measure: str
    """The benchmark's own measure, which `score` holds; a key of evaluation/score.py: MEASURES."""
    num_examples: int
    """Number of examples that each method and input answered, over all lengths."""
    num_questions: int
    lengths: list[Range]
    """Numbers of documents, shortest first; the last range is the longest context."""
    longest: list[Measured]
    """At the longest context, in the order of the main table."""
    by_length: list[Measured]
    by_position: list[Measured]
    """At the longest context; positions count from 1. Empty when the gold documents are unknown."""
    official: dict[str, official.Figures]
    """Name of a table row -> the figures of the benchmark's official evaluator over all lengths; may be empty."""

    @property
    def documents(self) -> str:
        """The number of documents of the longest context, in words."""
        return self.lengths[-1].documents()


def summarise(predictions: pl.DataFrame, *, resamples: int) -> Summary:
    """Measure every method and input.

    Args:
        predictions: rows with COLUMNS, of all methods.
        resamples: number of resamples of each bootstrap.

    Raises:
        ArtifactError: there are no predictions, an example is answered twice, methods answered different examples, or
            a measure is not a number.
    """
    answers = _by_row(predictions)
    examples = next(iter(answers.values()))
    lengths = ranges(examples["num_documents"].to_list(), most=6, parts=4)
    is_longest = pl.col("num_documents") >= lengths[-1].low
    gold_positions = examples.filter(is_longest, pl.col("gold_position") >= 0)["gold_position"]

    def measure_all(chosen: pl.Expr, group: str) -> list[Measured]:
        """Measure every method and input on the chosen examples."""
        ids = examples.filter(chosen).select("example_id")
        rows = {row: ids.join(found, on="example_id", maintain_order="left") for row, found in answers.items()}
        return [
            _measure(found, rows.get(REFERENCE) if row != REFERENCE else None, group, resamples)
            for row, found in rows.items()
        ]

    by_length = [
        measured
        for length in lengths
        for measured in measure_all(pl.col("num_documents").is_between(*length), length.label())
    ]
    by_position = [
        measured
        for position in ranges(gold_positions.to_list(), most=6, parts=3)
        for measured in measure_all(is_longest & pl.col("gold_position").is_between(*position), position.label(shift=1))
    ]
    benchmarks = sorted(examples["benchmark"].unique())
    return Summary(
        benchmarks=benchmarks,
        measure=tasks.of(benchmarks[0]).measure,
        num_examples=len(examples),
        num_questions=examples["question_id"].n_unique(),
        lengths=lengths,
        longest=by_length[-len(answers) :],
        by_length=by_length,
        by_position=by_position,
        official={row_name(*row): official.figures(found.to_dicts()) for row, found in answers.items()},
    )


def row_name(method: str, given: str) -> str:
    """Name of a row of the main table: the input is named unless it is the full context."""
    return method if given == "full" else f"{method} + {given}"


def method_order(method: str) -> tuple[int, str]:
    """Sort key of a method: the order of runtime/methods.py, then by name."""
    return (list(METHODS).index(method) if method in METHODS else len(METHODS), method)


def row_order(method: str, given: str) -> tuple[tuple[int, str], bool, str]:
    """Sort key of a row of the main table: by method, the full context first."""
    return (method_order(method), given != "full", given)


def in_order(methods: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Methods and what belongs to each, in the order of every table."""
    return sorted(methods.items(), key=lambda item: method_order(item[0]))


def _by_row(predictions: pl.DataFrame) -> dict[tuple[Any, ...], pl.DataFrame]:
    """Split the predictions by (method, input), in the order of the main table."""
    if predictions.is_empty():
        raise ArtifactError("no predictions to report; the split of eval.split may be empty, see reports/prepare.json")
    found = predictions.partition_by("method", "input", as_dict=True, maintain_order=True)
    ordered = dict(sorted(found.items(), key=lambda item: row_order(*item[0])))
    for (method, given), rows in ordered.items():
        for example_id in rows.filter(pl.col("example_id").is_duplicated())["example_id"]:
            raise ArtifactError(
                f"predictions of {method} answer example {example_id} twice ({given} input); "
                f"run `dvc repro -f evaluate@{method}`"
            )
    first, *others = ordered
    for other in others:
        if differing := set(ordered[first]["example_id"]) ^ set(ordered[other]["example_id"]):
            raise ArtifactError(
                f"predictions of {' on '.join(first)} and {' on '.join(other)} input answer different examples "
                f"({len(differing):,}, {min(differing)} is one); run `dvc repro -f evaluate@{other[0]}`"
            )
    return ordered


def _measure(rows: pl.DataFrame, reference: pl.DataFrame | None, group: str, resamples: int) -> Measured:
    """Measure one method and input; `reference` holds the same examples, answered by vanilla on the full context."""
    questions = rows["question_id"].to_list()
    scores = _numbers(rows, "score")
    to_vanilla = None
    if reference is not None:
        to_vanilla = bootstrap.paired_difference(scores, _numbers(reference, "score"), questions, resamples=resamples)
    errors = rows["error"].to_list()
    return Measured(
        method=rows["method"][0],
        input=rows["input"][0],
        group=group,
        num_examples=len(rows),
        score=bootstrap.interval(scores, questions, resamples=resamples),
        **{name: float(_numbers(rows, name).mean()) for name in _MEANS},
        **{f"{kind}_rate": errors.count(kind) / len(rows) for kind in ("correct", "distraction", "other")},
        mean_prompt_tokens=float(_numbers(rows, "prompt_tokens").mean()),
        to_vanilla=to_vanilla,
    )


def _numbers(rows: pl.DataFrame, name: str) -> NDArray[np.float64]:
    values: NDArray[np.float64] = rows[name].cast(pl.Float64).to_numpy()
    if not np.isfinite(values).all():
        method, example_id = rows.filter(~pl.Series(np.isfinite(values))).select("method", "example_id").row(0)
        raise ArtifactError(
            f"predictions of {method}: {name} of example {example_id} is not a number; "
            f"run `dvc repro -f evaluate@{method}`"
        )
    return values


def record(summary: Summary, sources: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the summary into JSON; rates and scores are from 0 to 1.

    Numbers by method come first, because `dvc metrics` shows them side by side and passes over lists. All else is in
    lists: the three groupings, the paper's results (percent) and `sources`, the other stages' figures by file name.
    """
    longest = {row.key: row for row in summary.longest}
    return {
        "num_examples": summary.longest[0].num_examples,
        "measure": summary.measure,
        "score": {key: row.score.mean for key, row in longest.items()},
        **{share: {key: getattr(row, share) for key, row in longest.items()} for share in _SHARES},
        "difference_to_vanilla": {key: row.to_vanilla.difference for key, row in longest.items() if row.to_vanilla},
        "benchmarks": summary.benchmarks,
        "longest": [_record(row) for row in summary.longest],
        "by_num_documents": [_record(row) for row in summary.by_length],
        "by_gold_position": [_record(row) for row in summary.by_position],
        "official": [{"name": name, "values": values} for name, values in summary.official.items()],
        "paper": list(PAPER),
        "sources": [{"file": name, "values": values} for name, values in sources.items()],
    }


def _record(row: Measured) -> dict[str, Any]:
    to_vanilla = None if row.to_vanilla is None else row.to_vanilla._asdict()
    return {**asdict(row), "score": row.score._asdict(), "to_vanilla": to_vanilla}


def scores_csv(rows: Iterable[Measured], grouped: Sequence[Measured], x: str) -> str:
    """Write the scores (0 to 1) of every group as CSV for `dvc plots`: a line per group, a column per row of the table.

    `x` is the heading of the groups; without groups there is only the line of headings.
    """
    groups = list(dict.fromkeys(row.group for row in grouped))
    score_of = {(row.group, row.key): round(row.score.mean, 6) for row in grouped}
    columns = {row.key: [score_of[group, row.key] for group in groups] for row in rows}
    return pl.DataFrame({x: groups, **columns}).write_csv()
