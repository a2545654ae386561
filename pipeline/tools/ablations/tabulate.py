"""From the answers of the ablation grid to its record.

All at the longest context, by the benchmark's own measure. The comparisons are corrected together (Holm); rows that are
the same runs under two names are one comparison.
"""

# S seeds, E examples of the longest context

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import bootstrap
from pipeline.report.ablation_table import AblationRow, AblationTable, Change, Mean, SeedMean, ToReference
from pipeline.report.summary import Range, ranges
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.ablations import seeds
from pipeline.views import tasks

MIN_PAIRED_SEEDS = 2
RESAMPLES = 20_000
"""So many that 20 corrected comparisons can fall below 0.05 where no resample contradicts them."""
FEWER_RESAMPLES = 2000
"""Of intervals that are tested against nothing: of one seed, of a slope."""

Answer = Mapping[str, Any]
"""example_id, question_id, benchmark, num_documents, gold_position, score, error."""
Floats = NDArray[np.float64]


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


class _Examples(NamedTuple):
    """Those of the longest context, in one order for all rows."""

    ids: list[str]
    question_ids: list[str]
    places_E: Floats
    """Of the gold document: 0 for the first, 1 for the last; NaN where it is unknown or there is one place only."""


class _Found(NamedTuple):
    """A row's answers to these examples."""

    scores_of: dict[int, Floats]
    """By seed."""
    distracted_of: dict[int, Floats]
    """1 for a distraction error, else 0."""


class _Draws(NamedTuple):
    """Of the bootstrap."""

    resamples: int
    seed: int


def tabulate(
    rows: Sequence[Answered],
    *,
    reference: str,
    claimed: Sequence[str],
    seconds: float,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> AblationTable:
    """Measure every row.

    Seeds are compared in pairs where the row and the reference share at least two: training's randomness is then the
    same for both. Else, as for the untuned model, which has no seed, against all seeds of the reference, drawn apart.

    Args:
        reference: name of the row compared with, where a row names none itself; what is not among `rows` is not
            compared with.
        claimed: names of the rows that the claims are about; those among `rows` are.
        seconds: that the runs took.

    Raises:
        ArtifactError: two rows answered different examples, or a score is no number.
        ValueError: two rows have one name.
    """
    named = {row.name: row for row in rows}
    if len(named) < len(rows):
        raise ValueError("two rows have one name")
    if not rows:
        return AblationTable(rows=[], reference=reference, seconds=seconds)
    first = next(iter(rows[0].answers.values()))
    length, draws = _longest(first), _Draws(resamples, seed)
    examples = _examples(first, length)
    found = {row.name: _found(row, examples, length) for row in rows}
    compared: dict[tuple[str, ...], ToReference] = {}
    key_of: dict[str, tuple[str, ...]] = {}
    for row in rows:
        against = named.get(row.reference or reference)
        if against is None or row.identity == against.identity:
            continue
        key = key_of[row.name] = (*row.identity, "to", *against.identity)
        if key not in compared:
            compared[key] = _compare(found[row.name], found[against.name], examples, draws)
    p_corrected = seeds.holm([one.p_value for one in compared.values()])
    for key, p_value in zip(list(compared), p_corrected, strict=True):
        compared[key] = compared[key].model_copy(update={"p_corrected": p_value})
    benchmark = str(first[0]["benchmark"])
    return AblationTable(
        benchmark=benchmark,
        min_documents=length.low,
        num_documents=length.high,
        num_questions=len(set(examples.question_ids)),
        measure=tasks.of(benchmark).measure,
        num_comparisons=len(compared),
        reference=reference,
        claimed=[name for name in claimed if name in named],
        seconds=seconds,
        rows=[_measured(row, found[row.name], compared.get(key_of.get(row.name, ())), examples, draws) for row in rows],
    )


def _longest(answers: Sequence[Answer]) -> Range:
    """Numbers of documents that count as the longest context: those of the main table."""
    return ranges([answer["num_documents"] for answer in answers], most=6, parts=4)[-1]


def _examples(answers: Sequence[Answer], length: Range) -> _Examples:
    chosen = _over(answers, length)
    return _Examples(
        [answer["example_id"] for answer in chosen],
        [str(answer["question_id"]) for answer in chosen],
        np.array([_place(answer["gold_position"], answer["num_documents"]) for answer in chosen]),
    )


def _over(answers: Sequence[Answer], length: Range) -> list[Answer]:
    """The answers over so many documents and more, in the order of their examples."""
    longest = (answer for answer in answers if answer["num_documents"] >= length.low)
    return sorted(longest, key=lambda answer: str(answer["example_id"]))


def _place(position: int, num_documents: int) -> float:
    return position / (num_documents - 1) if position >= 0 and num_documents > 1 else float("nan")


def _found(row: Answered, examples: _Examples, length: Range) -> _Found:
    scores_of, distracted_of = {}, {}
    for seed, answers in row.answers.items():
        chosen, where = _over(answers, length), f"row {row.name}, seed {seed}"
        mine = _examples(chosen, length)
        if differing := set(zip(mine.ids, mine.question_ids, strict=True)) ^ set(
            zip(examples.ids, examples.question_ids, strict=True)
        ):
            example_id, _ = min(differing)
            raise ArtifactError(
                f"{where}, and the first row answer different examples ({len(differing):,}, {example_id} is one): rows "
                "of one table answer the same questions; give every row the same data and eval.split (`common`)"
            )
        if not np.array_equal(mine.places_E, examples.places_E, equal_nan=True):
            raise ArtifactError(f"{where}: the gold documents stand in other places than in the first row")
        scores_of[seed] = np.array([answer["score"] for answer in chosen], dtype=np.float64)
        if not np.isfinite(scores_of[seed]).all():
            raise ArtifactError(f"{where}: a score is no number; remove its run below .dvc/tmp/ablations/runs")
        distracted_of[seed] = np.array([answer["error"] == "distraction" for answer in chosen], dtype=np.float64)
    return _Found(scores_of, distracted_of)


def _compare(row: _Found, against: _Found, examples: _Examples, draws: _Draws) -> ToReference:
    """The p-value is not corrected yet."""
    shared = [seed for seed in row.scores_of if seed in against.scores_of]
    paired = len(shared) >= MIN_PAIRED_SEEDS
    chosen = shared if paired else []
    score, distracted = (
        seeds.difference(_of(one, chosen), _of(other, chosen), examples.question_ids, paired=paired, **draws._asdict())
        for one, other in ((row.scores_of, against.scores_of), (row.distracted_of, against.distracted_of))
    )
    differences_E = _of(row.scores_of, chosen).mean(axis=0) - _of(against.scores_of, chosen).mean(axis=0)
    slope = _slope(differences_E, examples, draws)
    return ToReference(
        **score._asdict(),
        p_corrected=score.p_value,
        num_seeds=len(chosen or row.scores_of),
        distraction_rate=Change(**distracted._asdict()),
        slope=None if slope is None else Change(difference=slope.mean, low=slope.low, high=slope.high),
    )


def _measured(
    row: Answered, found: _Found, to_reference: ToReference | None, examples: _Examples, draws: _Draws
) -> AblationRow:
    pooled, distraction_rate = (
        Mean(**seeds.pooled(_of(columns, []), examples.question_ids, **draws._asdict())._asdict())
        for columns in (found.scores_of, found.distracted_of)
    )
    slope = _slope(_of(found.scores_of, []).mean(axis=0), examples, draws)
    return AblationRow(
        name=row.name,
        label=row.label,
        group=row.group,
        method=row.method,
        input=row.input,
        overrides=dict(row.overrides),
        reference=row.reference,
        seeds=list(row.answers),
        per_seed=[_one_seed(seed, values_E, examples, draws) for seed, values_E in found.scores_of.items()],
        pooled=pooled,
        distraction_rate=distraction_rate,
        slope=None if slope is None else Mean(**slope._asdict()),
        to_reference=to_reference,
    )


def _of(columns: Mapping[int, Floats], chosen: Sequence[int]) -> Floats:
    """Shape (S, E); all seeds where none are chosen."""
    return np.stack([columns[seed] for seed in chosen or columns])


def _slope(values_E: Floats, examples: _Examples, draws: _Draws) -> bootstrap.Interval | None:
    known = np.flatnonzero(~np.isnan(examples.places_E))
    question_ids = [examples.question_ids[index] for index in known]
    resamples = min(FEWER_RESAMPLES, draws.resamples)
    return bootstrap.slope(
        examples.places_E[known], values_E[known], question_ids, resamples=resamples, seed=draws.seed
    )


def _one_seed(number: int, values_E: Floats, examples: _Examples, draws: _Draws) -> SeedMean:
    found = bootstrap.interval(values_E, examples.question_ids, resamples=FEWER_RESAMPLES, seed=draws.seed)
    return SeedMean(seed=number, **found._asdict())
