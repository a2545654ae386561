"""Bootstrap intervals of means, paired differences and slopes, with the question as the unit of resampling.

Rows of the same question in several contexts are alike, so they are drawn together or not at all (cluster bootstrap).
Otherwise more contexts per question would make an interval too narrow.
"""

# Q questions

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
_NUMBERS_PER_BATCH = 2**20  # of resampled values held at once: 8 MiB, whatever the number of questions

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    mean: float
    low: float
    high: float


class PairedDifference(NamedTuple):
    """Mean of a - b, its 95 % interval, two-sided p-value of "no difference", and the number of questions."""

    difference: float
    low: float
    high: float
    p_value: float
    num_questions: int


def interval(
    values: Sequence[float] | Floats,
    question_ids: Sequence[str] | None = None,
    *,
    resamples: int,
    seed: int = 0,
) -> Interval:
    """Compute the mean over rows, with the percentile bootstrap over questions (Efron; scipy.stats.bootstrap).

    `question_ids` names the question of each value; None: every value is a question of its own. With one question, or
    where every question has the same mean, resampling shows no spread: low = high = mean.

    Raises:
        ValueError: there are no values, or another number of question_ids.
    """
    sums_Q, counts_Q = by_question(values, question_ids)
    mean = float(sums_Q.sum() / counts_Q.sum())
    means_Q = sums_Q / counts_Q
    if np.all(means_Q == means_Q[0]):
        return Interval(mean, mean, mean)
    result = stats.bootstrap(
        (sums_Q, counts_Q),
        lambda sums, counts, axis: sums.sum(axis=axis) / counts.sum(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _NUMBERS_PER_BATCH // len(sums_Q)),
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high))


def paired_difference(
    a: Sequence[float] | Floats,
    b: Sequence[float] | Floats,
    question_ids: Sequence[str] | None = None,
    *,
    resamples: int,
    seed: int = 0,
) -> PairedDifference:
    """Compute the mean of a - b over the same rows, its interval as in `interval`, and the p-value of a sign-flip test.

    Under the null hypothesis a question's difference is as likely as its opposite. Where all differences that are not
    zero have one size, as with one right-or-wrong row per question, the flips are counted exactly: the binomial test
    on discordant questions, which is McNemar's exact test. Else scipy.stats.permutation_test draws `resamples` flips
    (all of them when there are no more), so that no p-value is below 1 / (resamples + 1).

    Raises:
        ValueError: a and b have different lengths, or as in `interval`.
    """
    if len(a) != len(b):
        raise ValueError(f"a has {len(a)} values, b has {len(b)}: not the same rows")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    sums_Q, _ = by_question(differences, question_ids)
    found = interval(differences, question_ids, resamples=resamples, seed=seed)
    return PairedDifference(*found, _sign_flip_p(sums_Q, resamples, seed), len(sums_Q))


def slope(
    places: Sequence[float] | Floats,
    values: Sequence[float] | Floats,
    question_ids: Sequence[str] | None = None,
    *,
    resamples: int,
    seed: int = 0,
) -> Interval | None:
    """Fit the least-squares slope of values over places, with the percentile bootstrap over questions.

    None where all places are one: there is no slope. Resamples that happen to draw one place only are left out.

    Raises:
        ValueError: places and values have different lengths.
    """
    x, y = np.asarray(places, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if len(x) != len(y):
        raise ValueError(f"{len(x)} places but {len(y)} values: not the same rows")
    if len(x) == 0 or np.all(x == x[0]):
        return None
    x = x - x.mean()  # the slope is the same, and sums of squares lose no digits
    sums_5Q = np.stack([by_question(column, question_ids)[0] for column in (np.ones_like(x), x, y, x * x, x * y)])
    found, num_questions = float(_slope(sums_5Q.sum(axis=1))), sums_5Q.shape[1]
    rng = np.random.default_rng(seed)
    batch = max(1, _NUMBERS_PER_BATCH // num_questions)
    drawn: list[Floats] = []
    # By hand: scipy.stats.bootstrap warns of every distribution that has a NaN in it.
    for start in range(0, resamples, batch):
        chosen_RQ = rng.integers(num_questions, size=(min(batch, resamples - start), num_questions))
        drawn.append(_slope(np.stack([sums_Q[chosen_RQ].sum(axis=1) for sums_Q in sums_5Q])))
    tail = (1.0 - CONFIDENCE) / 2
    # The slope itself is added, so that at least one value is not NaN.
    low, high = np.nanquantile(np.append(np.concatenate(drawn), found), (tail, 1.0 - tail))
    return Interval(found, float(low), float(high))


def _slope(sums: Floats) -> Floats:
    """Compute slopes from number, sum of x, of y, of x squared, of x times y; NaN where all x are one."""
    num, x, y, xx, xy = sums
    spread = xx - x * x / num
    flat = spread <= 1e-12 * xx  # 0 but for rounding
    found: Floats = np.where(flat, np.nan, (xy - x * y / num) / np.where(flat, 1.0, spread))
    return found


def _sign_flip_p(differences_Q: Floats, resamples: int, seed: int) -> float:
    changed = differences_Q[differences_Q != 0.0]
    if len(changed) == 0:
        return 1.0
    if np.all(np.abs(changed) == np.abs(changed[0])):
        return float(stats.binomtest(int((changed > 0).sum()), len(changed)).pvalue)
    result = stats.permutation_test(
        (changed,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, _NUMBERS_PER_BATCH // len(changed)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def by_question(values: Sequence[float] | Floats, question_ids: Sequence[str] | None) -> tuple[Floats, Floats]:
    """Sum and count the rows of each question."""
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0:
        raise ValueError("no values: a mean of nothing is not defined")
    if question_ids is None:
        return values, np.ones_like(values)
    if len(question_ids) != len(values):
        raise ValueError(f"{len(values)} values but {len(question_ids)} question_ids")
    _, question_of_row = np.unique(np.asarray(question_ids), return_inverse=True)
    sums_Q = np.bincount(question_of_row, weights=values).astype(np.float64)
    return sums_Q, np.bincount(question_of_row).astype(np.float64)
