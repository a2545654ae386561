"""Measures the ablation grid: from the answers of its runs to the record of reports/ablations.json.

Everything is measured at the longest context, by the benchmark's own measure. The comparisons are corrected together
(Holm); rows that are the same runs under two names are one comparison.

How sure a mean over trainings is comes from a crossed bootstrap: the same questions are asked under every seed, so a
resample draws seeds with replacement and questions with replacement, and takes every answer of a drawn seed to a drawn
question. A question's examples stay together (Owen 2007, "The pigeonhole bootstrap"). With few seeds that bootstrap has
two faults. It counts the residual variance, which neither seed nor question explains, three times: we rescale the
resamples to the standard error of the two-way analysis of variance, which counts it once. And its tails are too short,
because five seeds do not show how far a sixth may lie: we widen them by Student's t with Satterthwaite's degrees of
freedom. A p-value and its interval come from the same resamples, so they do not contradict each other.
"""

# R resamples, S seeds, E examples of the longest context, Q questions

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from scipy import stats

from pipeline.evaluation import bootstrap
from pipeline.evaluation.bootstrap import CONFIDENCE, Floats, Interval, PairedDifference
from pipeline.report.ablation_table import AblationRow, AblationTable, Change, Mean, SeedMean, ToReference
from pipeline.report.summary import ranges
from pipeline.runtime.errors import ArtifactError
from pipeline.views import tasks

MIN_PAIRED_SEEDS = 2
RESAMPLES = 20_000
"""So many that 20 corrected comparisons can fall below 0.05 where no resample contradicts them."""
FEWER_RESAMPLES = 2000
"""For intervals that are not tested: those of one seed, and of a slope."""
_NUMBERS_PER_BATCH = 2**20  # of resampled counts held at once: 8 MiB


@dataclass(frozen=True)
class AblationAnswers:
    """A row of the grid and the answers of its runs."""

    name: str
    label: str
    group: str
    method: str
    input: str
    overrides: Mapping[str, Any]
    answers: pl.DataFrame
    """Columns of schema.ABLATION_RUN, and `seed`. One seed is enough where it changes nothing, as without training."""
    identity: tuple[str, ...]
    """The input and the digests of its runs: equal for rows with the same answers."""
    reference: str | None = None
    """Name of the row that it is compared with; None: the reference of the table."""


class _Examples(NamedTuple):
    """The examples of the longest context, in one order for all rows."""

    keys: pl.DataFrame
    """Columns example_id and question_id."""
    question_ids: list[str]
    places_E: Floats
    """Place of the gold document: 0 for the first, 1 for the last; NaN where it is unknown or there is one place."""


class _Outcomes(NamedTuple):
    """A row's results on these examples, by seed."""

    score_of: dict[int, Floats]
    distracted_of: dict[int, Floats]
    """1 for a distraction error, else 0."""


def tabulate(
    rows: Sequence[AblationAnswers],
    *,
    reference: str,
    claimed: Sequence[str],
    seconds: float,
    code: str = "",
    every_length: bool = False,
    resamples: int = RESAMPLES,
) -> AblationTable:
    """Measure every row.

    Seeds are compared in pairs where the row and its reference share at least two: training's randomness is then the
    same for both. Otherwise, as for the untuned model, which has no seed, the seeds of both are drawn independently.

    Args:
        reference: name of the row compared with, where a row names none itself. A row whose reference is not among
            `rows` is compared with nothing.
        claimed: names of the rows that the claims are about; names that are not among `rows` are left out.
        seconds: total time of the runs.
        code: the git commit whose code made the answers, in words.
        every_length: also measure, and correct by itself, a table for each number of documents below the most.

    Raises:
        ArtifactError: two rows answered different examples, or a score is no number.
        ValueError: two rows have one name.
    """
    named = {row.name: row for row in rows}
    if len(named) < len(rows):
        raise ValueError("two rows have one name")
    if not rows:
        return AblationTable(rows=[], reference=reference, seconds=seconds, code=code)
    first = rows[0].answers.filter(pl.col("seed") == pl.col("seed").first())
    *others, length = ranges(first["num_documents"].to_list(), most=6, parts=4)  # as in the main table
    examples = _examples(_over(first, length.low))
    outcomes = {row.name: _outcomes(row, examples, length.low) for row in rows}
    compared: dict[tuple[str, ...], ToReference] = {}
    key_of: dict[str, tuple[str, ...]] = {}
    for row in rows:
        against = named.get(row.reference or reference)
        if against is None or row.identity == against.identity:
            continue
        key = key_of[row.name] = (*row.identity, "to", *against.identity)
        if key not in compared:
            compared[key] = _compare(outcomes[row.name], outcomes[against.name], examples, resamples)
    p_corrected = holm([one.p_value for one in compared.values()])
    for key, p_value in zip(list(compared), p_corrected, strict=True):
        compared[key] = compared[key].model_copy(update={"p_corrected": p_value})
    benchmark = str(first["benchmark"][0])
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
        code=code,
        rows=[
            _measured(row, outcomes[row.name], compared.get(key_of.get(row.name, ())), examples, resamples)
            for row in rows
        ],
        shorter=[
            tabulate(
                [replace(row, answers=row.answers.filter(pl.col("num_documents") <= other.high)) for row in rows],
                reference=reference,
                claimed=claimed,
                seconds=seconds,
                code=code,
                resamples=resamples,
            )
            for other in others
            if every_length
        ],
    )


def _over(answers: pl.DataFrame, min_documents: int) -> pl.DataFrame:
    """Select the answers over so many documents and more, sorted by example, with the gold document's `place`."""
    known = (pl.col("gold_position") >= 0) & (pl.col("num_documents") > 1)
    place = pl.when(known).then(pl.col("gold_position") / (pl.col("num_documents") - 1)).otherwise(float("nan"))
    return answers.filter(pl.col("num_documents") >= min_documents).sort("example_id").with_columns(place=place)


def _examples(answers: pl.DataFrame) -> _Examples:
    keys = answers.select("example_id", "question_id")
    return _Examples(keys, keys["question_id"].to_list(), answers["place"].to_numpy())


def _outcomes(row: AblationAnswers, examples: _Examples, min_documents: int) -> _Outcomes:
    found = _Outcomes({}, {})
    by_seed = _over(row.answers, min_documents).partition_by("seed", as_dict=True)
    for seed in row.answers["seed"].unique(maintain_order=True):
        chosen, where = by_seed.get((seed,), row.answers.clear()), f"row {row.name}, seed {seed}"
        mine = _examples(chosen)
        both = [one.join(other, on=one.columns, how="anti") for one, other in permutations((mine.keys, examples.keys))]
        if len(differing := pl.concat(both)):
            raise ArtifactError(
                f"{where}, and the first row answer different examples ({len(differing):,}, "
                f"{differing['example_id'].sort()[0]} is one): rows of one table answer the same questions; give "
                "every row the same data and eval.split (`common`)"
            )
        if not np.array_equal(mine.places_E, examples.places_E, equal_nan=True):
            raise ArtifactError(f"{where}: the gold documents stand in other places than in the first row")
        found.score_of[seed] = chosen["score"].to_numpy()
        if not np.isfinite(found.score_of[seed]).all():
            raise ArtifactError(f"{where}: a score is no number; remove its run in reports/runs")
        found.distracted_of[seed] = (chosen["error"] == "distraction").cast(pl.Float64).to_numpy()
    return found


def _compare(row: _Outcomes, against: _Outcomes, examples: _Examples, resamples: int) -> ToReference:
    """Compare a row with its reference; the p-value is not corrected yet."""
    shared = [seed for seed in row.score_of if seed in against.score_of]
    paired = len(shared) >= MIN_PAIRED_SEEDS
    chosen = shared if paired else []
    score, distracted = (
        crossed_difference(
            _stacked(one, chosen), _stacked(other, chosen), examples.question_ids, paired=paired, resamples=resamples
        )
        for one, other in zip(row, against, strict=True)
    )
    differences_E = _stacked(row.score_of, chosen).mean(axis=0) - _stacked(against.score_of, chosen).mean(axis=0)
    slope = _slope(differences_E, examples, resamples)
    return ToReference(
        **score._asdict(),
        p_corrected=score.p_value,
        num_seeds=len(chosen or row.score_of),
        distraction_rate=Change(**distracted._asdict()),
        slope=None if slope is None else Change(difference=slope.mean, low=slope.low, high=slope.high),
    )


def _measured(
    row: AblationAnswers, outcomes: _Outcomes, to_reference: ToReference | None, examples: _Examples, resamples: int
) -> AblationRow:
    pooled, distraction_rate = (
        Mean(**crossed_mean(_stacked(of_seed), examples.question_ids, resamples=resamples)._asdict())
        for of_seed in outcomes
    )
    slope = _slope(_stacked(outcomes.score_of).mean(axis=0), examples, resamples)
    per_seed = {
        seed: bootstrap.interval(values_E, examples.question_ids, resamples=FEWER_RESAMPLES)
        for seed, values_E in outcomes.score_of.items()
    }
    return AblationRow(
        name=row.name,
        label=row.label,
        group=row.group,
        method=row.method,
        input=row.input,
        overrides=dict(row.overrides),
        reference=row.reference,
        seeds=list(per_seed),
        per_seed=[SeedMean(seed=seed, **found._asdict()) for seed, found in per_seed.items()],
        pooled=pooled,
        distraction_rate=distraction_rate,
        slope=None if slope is None else Mean(**slope._asdict()),
        to_reference=to_reference,
    )


def _stacked(values_of: Mapping[int, Floats], seeds: Sequence[int] = ()) -> Floats:
    """Stack the values of these seeds, or of all seeds where none are named; shape (S, E)."""
    return np.stack([values_of[seed] for seed in seeds or values_of])


def _slope(values_E: Floats, examples: _Examples, resamples: int) -> Interval | None:
    known = np.flatnonzero(~np.isnan(examples.places_E))
    question_ids = [examples.question_ids[index] for index in known]
    fewer = min(FEWER_RESAMPLES, resamples)
    return bootstrap.slope(examples.places_E[known], values_E[known], question_ids, resamples=fewer)


def crossed_mean(values_SE: Floats, question_ids: Sequence[str], *, resamples: int, seed: int = 0) -> Interval:
    """Mean over seeds and examples, with its 95 % interval, kept between 0 and 1.

    Args:
        values_SE: shares from 0 to 1 of the same examples under each seed. One seed tells nothing about others: the
            interval is then over questions alone.
        question_ids: the question of each example.

    Raises:
        ValueError: there are no values, or not one question id per example.
    """
    mean, draws_R, _ = crossed_bootstrap([values_SE], question_ids, resamples=resamples, seed=seed)
    return Interval(mean, *_middle(draws_R, 0.0, 1.0))


def crossed_difference(
    a_SE: Floats, b_SE: Floats, question_ids: Sequence[str], *, paired: bool, resamples: int, seed: int = 0
) -> PairedDifference:
    """Mean of a minus mean of b on the same examples: interval, kept between -1 and 1, and two-sided p-value.

    The p-value of "no difference" is twice the share of resamples on the other side of zero, counted as
    (number + 1) / (R + 1), and at least 2 / 2^Q: so often do Q questions all fall to one side by chance.

    Args:
        a_SE, b_SE: shares from 0 to 1.
        question_ids: the question of each example. Questions are always drawn for both at once.
        paired: row s of both has the same seed, so that seeds are drawn in pairs; else a and b may have different
            numbers of seeds, which are drawn independently.

    Raises:
        ValueError: as `crossed_mean`, or paired seeds of different number.
    """
    if paired and len(a_SE) != len(b_SE):
        raise ValueError(f"a has {len(a_SE)} seeds, b has {len(b_SE)}: not pairs")
    groups = [a_SE - b_SE] if paired else [a_SE, -b_SE]
    mean, draws_R, num_questions = crossed_bootstrap(groups, question_ids, resamples=resamples, seed=seed)
    tails = [(int(np.count_nonzero(beyond)) + 1) / (resamples + 1) for beyond in (draws_R <= 0.0, draws_R >= 0.0)]
    p_value = min(1.0, max(2 * min(tails), 2.0 ** (1 - num_questions)))
    return PairedDifference(mean, *_middle(draws_R, -1.0, 1.0), p_value, num_questions)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct each p-value for the number of all (Holm 1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1; it is at least the one before it, and at most 1.
    """
    order = np.argsort(p_values, kind="stable")
    raised = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return [float(p) for p in corrected]


def crossed_bootstrap(
    groups: Sequence[Floats], question_ids: Sequence[str], *, resamples: int, seed: int
) -> tuple[float, Floats, int]:
    """Resample the sum of the groups' means over seeds and questions; each group draws its own seeds.

    Args:
        groups: values of the same examples, each of shape (S, E).

    Returns:
        The sum itself; its resamples (R) in rising order, with the spread and the tails they should have; and Q.
    """
    if not all(map(len, groups)):
        raise ValueError("no values: a mean over no seeds is not defined")
    by_question = [[bootstrap.by_question(values_E, question_ids) for values_E in values_SE] for values_SE in groups]
    sums, counts_Q = [np.stack([sums_Q for sums_Q, _ in found]) for found in by_question], by_question[0][0][1]
    mean = float(sum(sums_SQ.mean(axis=0).sum() for sums_SQ in sums) / counts_Q.sum())
    random = np.random.default_rng(seed)
    num_questions = len(counts_Q)
    batch = max(1, _NUMBERS_PER_BATCH // num_questions)
    drawn = []
    for start in range(0, resamples, batch):
        num = min(batch, resamples - start)
        taken = random.integers(num_questions, size=(num, num_questions)) + num_questions * np.arange(num)[:, None]
        times_RQ = np.bincount(taken.ravel(), minlength=num * num_questions).reshape(num, num_questions)
        total_R = np.zeros(num)
        for sums_SQ in sums:
            times_RS = random.multinomial(len(sums_SQ), [1 / len(sums_SQ)] * len(sums_SQ), size=num)
            total_R += (times_RS @ sums_SQ * times_RQ).sum(axis=1) / len(sums_SQ)
        drawn.append(total_R / (times_RQ @ counts_Q))
    draws_R = np.sort(np.concatenate(drawn))
    return mean, _rescaled(draws_R, mean, *_variance(sums, counts_Q)), num_questions


def _rescaled(draws_R: Floats, mean: float, variance: float, df: float) -> Floats:
    """Give the resamples, in rising order, this variance and the tails of Student's t.

    Each resample moves away from the mean by as much as Student's quantile at its rank exceeds the normal one.
    """
    found = float(draws_R.std())
    if found <= 1e-12 or variance == 0.0:
        return draws_R
    rank_R = np.arange(1, len(draws_R) + 1) / (len(draws_R) + 1)
    normal_R = stats.norm.ppf(rank_R)
    limit_R = np.full(len(draws_R), stats.norm.pdf(0.0) / stats.t.pdf(0.0, df))  # where both quantiles are 0
    factor_R = np.divide(stats.t.ppf(rank_R, df), normal_R, out=limit_R, where=np.abs(normal_R) > 1e-6)
    rescaled: Floats = np.sort(mean + variance**0.5 / found * factor_R * (draws_R - mean))
    return rescaled


def _variance(groups: Sequence[Floats], counts_Q: Floats) -> tuple[float, float]:
    """Variance of the sum of the groups' means by the two-way analysis of variance, and its degrees of freedom.

    It is the variance of seeds plus that of questions minus the residual. Questions with several examples enter by
    their deviation from the mean, as in a ratio of two sums.
    """
    num_questions, num_examples = len(counts_Q), float(counts_Q.sum())
    of_seeds = residual = squares = 0.0
    deviation_Q = np.zeros(num_questions)
    for sums_SQ in groups:
        num_seeds = len(sums_SQ)
        deviation_SQ = sums_SQ - sums_SQ.mean(axis=0).sum() / num_examples * counts_Q
        seed_S, question_Q = deviation_SQ.mean(axis=1), deviation_SQ.mean(axis=0)
        deviation_Q += question_Q
        if num_seeds == 1:
            continue
        seeds = float(seed_S.var(ddof=1)) * num_questions**2 / (num_seeds * num_examples**2)
        of_seeds += seeds
        squares += seeds**2 / (num_seeds - 1)
        if num_questions > 1:
            df = (num_seeds - 1) * (num_questions - 1)
            rest_SQ = deviation_SQ - seed_S[:, None] - question_Q + deviation_SQ.mean()
            rest = float((rest_SQ**2).sum()) / df * num_questions / (num_seeds * num_examples**2)
            residual += rest
            squares += rest**2 / df
    of_questions = 0.0
    if num_questions > 1:
        of_questions = float(deviation_Q.var(ddof=1)) * num_questions / num_examples**2
        squares += of_questions**2 / (num_questions - 1)
    variance = max(of_seeds, of_questions, of_seeds + of_questions - residual)
    return variance, variance**2 / squares if squares else 1.0


def _middle(draws_R: Floats, least: float, most: float) -> tuple[float, float]:
    """Find the borders of the middle 95 %, kept between these two values."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.clip(np.quantile(draws_R, [tail, 1 - tail]), least, most)
    return float(low), float(high)
