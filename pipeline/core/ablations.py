"""The ablation table: each row's mean over seeds and questions, and its difference to the reference row.

All at the longest context, by the benchmark's own measure. The comparisons are corrected together (Holm); rows that are
the same runs under two names are one comparison.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline.core import seeds, statistics, tasks
from pipeline.core.ranges import Range, ranges
from pipeline.errors import ArtifactError

MIN_PAIRED_SEEDS = 2
RESAMPLES = 20_000
"""So many that 20 corrected comparisons can fall below 0.05 where no resample contradicts them."""
SEED_RESAMPLES = 2000
"""Of the interval of one seed, which is tested against nothing."""

Answer = Mapping[str, Any]
"""example_id, question_id, benchmark, num_documents, score, error."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Mean(_Record):
    """A share, from 0 to 1, and its 95 % interval."""

    mean: float
    low: float
    high: float


class SeedMean(Mean):
    """Of one training; the interval is over questions."""

    seed: int


class ToVanilla(_Record):
    """Difference to the reference row on the same questions."""

    difference: float
    low: float
    high: float
    p_value: float
    p_corrected: float
    num_seeds: int
    """Of this row, as compared."""
    num_questions: int


class Row(_Record):
    """One line of the table."""

    name: str
    label: str
    group: str
    method: str
    input: str
    overrides: dict[str, Any]
    reference: str | None = None
    """Row that it is compared with, where that is not the table's own."""
    seeds: list[int]
    per_seed: list[SeedMean]
    pooled: Mean
    """Over seeds and questions."""
    distraction_rate: Mean
    to_vanilla: ToVanilla | None


class Table(_Record):
    """reports/ablations.json. Without rows, the grid has not run yet."""

    benchmark: str | None = None
    num_documents: int | None = None
    """Of the longest contexts, at most."""
    num_questions: int = 0
    """Asked there."""
    measure: tasks.Measure | None = None
    correction: Literal["holm"] = "holm"
    num_comparisons: int = 0
    seconds: float = 0.0
    """Of all runs behind the table, together."""
    rows: list[Row]


@dataclass(frozen=True)
class Answered:
    """A row of the grid and the answers of its runs."""

    name: str
    label: str
    group: str
    method: str
    input: str
    overrides: Mapping[str, Any]
    answers: Mapping[int, Sequence[Answer]]
    """By seed. Where the seed changes nothing, as without training, one is enough."""
    identity: tuple[str, ...]
    """The input and the digests of its runs: equal for rows with the same answers."""
    reference: str | None = None
    """Name of the row that it is compared with; None: that of the table."""


def tabulate(
    rows: Sequence[Answered], *, reference: str, seconds: float, resamples: int = RESAMPLES, seed: int = 0
) -> Table:
    """Measure every row.

    Seeds are compared in pairs where the row and the reference share at least two: training's randomness is then the
    same for both. Else, as for the untuned model, which has no seed, against all seeds of the reference, drawn apart.

    Args:
        reference: name of the row compared with, where a row names none itself; what is not among `rows` is not
            compared with.
        seconds: that the runs took.

    Raises:
        ArtifactError: two rows answered different examples.
    """
    if not rows:
        return Table(rows=[], seconds=seconds)
    first = next(iter(rows[0].answers.values()))
    length = _longest(first)
    examples = sorted(
        (answer for answer in first if length.low <= answer["num_documents"] <= length.high),
        key=lambda answer: str(answer["example_id"]),
    )
    ids = [answer["example_id"] for answer in examples]
    questions = [str(answer["question_id"]) for answer in examples]
    scores = {row.name: _columns(row, "score", ids) for row in rows}
    named = {row.name: row for row in rows}
    against_of = {row.name: named.get(row.reference or reference) for row in rows}
    found: dict[tuple[str, ...], statistics.PairedDifference] = {}
    key_of: dict[str, tuple[str, ...]] = {}
    for row in rows:
        against = against_of[row.name]
        if against is None or row.identity == against.identity:
            continue
        key = key_of[row.name] = (*row.identity, "to", *against.identity)
        if key not in found:
            shared = _shared_seeds(row, against)
            found[key] = seeds.difference(
                _of(scores[row.name], shared),
                _of(scores[against.name], shared),
                questions,
                paired=bool(shared),
                resamples=resamples,
                seed=seed,
            )
    corrected = dict(zip(found, seeds.holm([one.p_value for one in found.values()]), strict=True))
    measured = []
    for row in rows:
        to_vanilla, against = None, against_of[row.name]
        if against is not None and row.name in key_of:
            key = key_of[row.name]
            num_seeds = len(_shared_seeds(row, against) or row.answers)
            to_vanilla = ToVanilla(**found[key]._asdict(), p_corrected=corrected[key], num_seeds=num_seeds)
        wrong = _columns(row, "error", ids)
        measured.append(
            Row(
                name=row.name,
                label=row.label,
                group=row.group,
                method=row.method,
                input=row.input,
                overrides=dict(row.overrides),
                reference=row.reference,
                seeds=list(row.answers),
                per_seed=[_one_seed(number, values, questions, seed) for number, values in scores[row.name].items()],
                pooled=_pooled(scores[row.name], questions, resamples, seed),
                distraction_rate=_pooled(wrong, questions, resamples, seed),
                to_vanilla=to_vanilla,
            )
        )
    return Table(
        benchmark=str(examples[0]["benchmark"]),
        num_documents=length.high,
        num_questions=len(set(questions)),
        measure=tasks.of(str(examples[0]["benchmark"])).measure,
        num_comparisons=len(found),
        seconds=seconds,
        rows=measured,
    )


def parse(value: Any) -> Table:
    """The table from its JSON. Raises ArtifactError with the first place that is not as it should be."""
    try:
        return Table.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        raise ArtifactError(f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}") from None


def _longest(answers: Sequence[Answer]) -> Range:
    """Numbers of documents that count as the longest context: those of the main table."""
    return ranges([answer["num_documents"] for answer in answers], most=6, parts=4)[-1]


def _columns(row: Answered, name: str, ids: Sequence[str]) -> dict[int, NDArray[np.float64]]:
    """By seed, the values of the examples `ids`; of errors: 1 where it is a distraction error."""
    columns = {}
    for seed, answers in row.answers.items():
        of = {answer["example_id"]: answer[name] for answer in answers}
        if missing := [key for key in ids if key not in of]:
            raise ArtifactError(
                f"row {row.name}, seed {seed}, has no answer to example {missing[0]} ({len(missing):,} are missing): "
                "rows of one table answer the same questions; give every row the same data and eval.split (`common`)"
            )
        values = [of[key] for key in ids]
        columns[seed] = np.array([v == "distraction" for v in values] if name == "error" else values, dtype=np.float64)
    return columns


def _shared_seeds(row: Answered, against: Answered) -> list[int]:
    shared = [seed for seed in row.answers if seed in against.answers]
    return shared if len(shared) >= MIN_PAIRED_SEEDS else []


def _of(columns: Mapping[int, NDArray[np.float64]], chosen: Sequence[int]) -> NDArray[np.float64]:
    """Seeds by examples; all seeds where none are chosen."""
    return np.stack([columns[seed] for seed in chosen or columns])


def _pooled(columns: Mapping[int, NDArray[np.float64]], questions: Sequence[str], resamples: int, seed: int) -> Mean:
    return Mean(**seeds.pooled(_of(columns, []), questions, resamples=resamples, seed=seed)._asdict())


def _one_seed(number: int, values: NDArray[np.float64], questions: Sequence[str], seed: int) -> SeedMean:
    found = statistics.interval(values, questions, resamples=SEED_RESAMPLES, seed=seed)
    return SeedMean(seed=number, **found._asdict())
