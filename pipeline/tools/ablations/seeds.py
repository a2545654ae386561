"""How sure a mean is over trainings with several seeds: seeds and questions are both drawn.

The same questions are asked under every seed, so the two are crossed: a resample takes seeds with replacement and
questions with replacement, and every answer of a taken seed to a taken question. A question's examples stay together.

This bootstrap (Owen 2007, "The pigeonhole bootstrap") has two faults with few seeds, and both are mended. What neither
seed nor question explains is counted three times: the spread of the resamples is therefore set to that of the two-way
analysis of variance, which counts it once. And five seeds do not show how far a sixth may lie: each resample is moved
from the mean by as much as Student's quantile at its rank exceeds the normal one, with Satterthwaite's degrees of
freedom. A p-value and its interval come from the same resamples, so that they do not contradict each other.
"""

# R resamples, S seeds, E examples, Q questions

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from pipeline.evaluation.bootstrap import CONFIDENCE, Interval, PairedDifference

_NUMBERS_PER_BATCH = 2**20  # of resampled counts held at once: 8 MiB

Floats = NDArray[np.float64]


class _Spread(NamedTuple):
    """Variance of the mean and its degrees of freedom."""

    variance: float
    df: float


def pooled(values_SE: Floats, question_ids: Sequence[str], *, resamples: int, seed: int) -> Interval:
    """Mean over seeds and examples, with its 95 % interval.

    `values_SE` are shares, from 0 to 1, of the same examples under each seed; the interval is kept between 0 and 1. One
    seed says nothing about others: the interval is then over questions alone.

    Raises:
        ValueError: no values, or not one question id per example.
    """
    sums_SQ, counts_Q = _by_question(values_SE, question_ids)
    mean = float(sums_SQ.mean(axis=0).sum() / counts_Q.sum())
    low, high = np.clip(_middle(_resampled([sums_SQ], counts_Q, resamples, seed)), 0.0, 1.0)
    return Interval(mean, float(low), float(high))


def difference(
    a_SE: Floats, b_SE: Floats, question_ids: Sequence[str], *, paired: bool, resamples: int, seed: int
) -> PairedDifference:
    """Mean of a minus mean of b on the same examples: interval and two-sided p-value of "no difference".

    Args:
        paired: row s of both has the same seed, so that seeds are drawn in pairs; else a and b may have different
            numbers of seeds, which are drawn apart. Questions are always drawn for both at once.

    The values are shares, and the interval is kept between -1 and 1. The p-value is twice the share of resamples on the
    other side of zero, counted as (number + 1) / (R + 1), and at least 2 / 2^Q: so often do Q questions all fall to one
    side by chance.

    Raises:
        ValueError: as `pooled`, or paired seeds of different number.
    """
    if paired and len(a_SE) != len(b_SE):
        raise ValueError(f"a has {len(a_SE)} seeds, b has {len(b_SE)}: not pairs")
    groups = [a_SE - b_SE] if paired else [a_SE, -b_SE]
    by_question = [_by_question(values_SE, question_ids) for values_SE in groups]
    counts_Q = by_question[0][1]
    sums = [sums_SQ for sums_SQ, _ in by_question]
    mean = float(sum(sums_SQ.mean(axis=0).sum() for sums_SQ in sums) / counts_Q.sum())
    draws_R = _resampled(sums, counts_Q, resamples, seed)
    low, high = (float(border) for border in np.clip(_middle(draws_R), -1.0, 1.0))
    tails = [(int(np.count_nonzero(beyond)) + 1) / (resamples + 1) for beyond in (draws_R <= 0.0, draws_R >= 0.0)]
    p_value = min(1.0, max(2 * min(tails), 2.0 ** (1 - len(counts_Q))))
    return PairedDifference(mean, low, high, p_value, len(counts_Q))


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value corrected for the number of all (Holm 1979), in the order given: the k-th smallest of m times
    m - k + 1, at least the one before it, at most 1."""
    order = np.argsort(p_values, kind="stable")
    raised = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return [float(p) for p in corrected]


def _by_question(values_SE: Floats, question_ids: Sequence[str]) -> tuple[Floats, Floats]:
    """Sum of each question's examples under each seed, and their number."""
    if values_SE.ndim != 2 or 0 in values_SE.shape:
        raise ValueError("no values: a mean of nothing is not defined")
    if len(question_ids) != values_SE.shape[1]:
        raise ValueError(f"{values_SE.shape[1]} examples but {len(question_ids)} question_ids")
    _, question_of_E = np.unique(np.asarray(question_ids), return_inverse=True)
    sums_SQ = np.stack([np.bincount(question_of_E, weights=values_E).astype(np.float64) for values_E in values_SE])
    return sums_SQ, np.bincount(question_of_E).astype(np.float64)


def _resampled(groups: Sequence[Floats], counts_Q: Floats, resamples: int, seed: int) -> Floats:
    """Resampled sums of the groups' means, in rising order; each group [S, Q] draws its own seeds."""
    random = np.random.default_rng(seed)
    num_questions = len(counts_Q)
    batch = max(1, _NUMBERS_PER_BATCH // num_questions)
    drawn = []
    for start in range(0, resamples, batch):
        num = min(batch, resamples - start)
        taken = random.integers(num_questions, size=(num, num_questions)) + num_questions * np.arange(num)[:, None]
        times_RQ = np.bincount(taken.ravel(), minlength=num * num_questions).reshape(num, num_questions)
        total_R = np.zeros(num)
        for sums_SQ in groups:
            times_RS = random.multinomial(len(sums_SQ), [1 / len(sums_SQ)] * len(sums_SQ), size=num)
            total_R += (times_RS @ sums_SQ * times_RQ).sum(axis=1) / len(sums_SQ)
        drawn.append(total_R / (times_RQ @ counts_Q))
    return _mended(np.sort(np.concatenate(drawn)), groups, counts_Q)


def _mended(draws_R: Floats, groups: Sequence[Floats], counts_Q: Floats) -> Floats:
    """The resamples, in rising order, with the spread and the tails they should have."""
    spread = _spread(groups, counts_Q)
    found = float(draws_R.std())
    if found <= 1e-12 or spread.variance == 0.0:
        return draws_R
    mean = float(sum(sums_SQ.mean(axis=0).sum() for sums_SQ in groups) / counts_Q.sum())
    rank_R = np.arange(1, len(draws_R) + 1) / (len(draws_R) + 1)
    normal_R = stats.norm.ppf(rank_R)
    middle = stats.norm.pdf(0.0) / stats.t.pdf(0.0, spread.df)  # the limit of the quotient where both are 0
    apart_R = np.abs(normal_R) > 1e-6
    factor_R = np.full(len(draws_R), middle)
    factor_R[apart_R] = stats.t.ppf(rank_R[apart_R], spread.df) / normal_R[apart_R]
    mended: Floats = np.sort(mean + spread.variance**0.5 / found * factor_R * (draws_R - mean))
    return mended


def _spread(groups: Sequence[Floats], counts_Q: Floats) -> _Spread:
    """Of the sum of the groups' means, by the two-way analysis of variance: seeds + questions - what both explain not.

    Questions with several examples enter by their deviation from the mean, as in a ratio of two sums.
    """
    num_questions, num_examples = len(counts_Q), float(counts_Q.sum())
    of_seeds = of_rest = squares = 0.0
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
            of_rest += rest
            squares += rest**2 / df
    of_questions = 0.0
    if num_questions > 1:
        of_questions = float(deviation_Q.var(ddof=1)) * num_questions / num_examples**2
        squares += of_questions**2 / (num_questions - 1)
    variance = max(of_seeds, of_questions, of_seeds + of_questions - of_rest)
    return _Spread(variance, variance**2 / squares if squares else 1.0)


def _middle(draws_R: Floats) -> tuple[float, float]:
    """The borders of the middle 95 %."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws_R, [tail, 1 - tail])
    return float(low), float(high)
