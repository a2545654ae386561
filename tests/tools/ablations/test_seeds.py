"""Seeds and questions drawn together: against a slow loop, against the truth in a simulation, Holm against examples."""

import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import bootstrap
from pipeline.tools.ablations import seeds

DRAWS = {"resamples": 2000, "seed": 0}


def names(num: int, each: int = 1) -> list[str]:
    return [f"q{index // each:03d}" for index in range(num * each)]


def simulated(draw, num_seeds, num_questions, of_seeds, of_questions, of_rest):
    """Values whose mean is 0: a seed's own level, a question's own, and what neither explains."""
    return (
        of_seeds * draw.normal(size=(num_seeds, 1))
        + of_questions * draw.normal(size=(1, num_questions))
        + of_rest * draw.normal(size=(num_seeds, num_questions))
    )


def slow_draws(groups, question_ids, resamples):
    """Draw seeds of each group and questions with replacement, walk over every answer, add the groups' means."""
    draw = random.Random(0)
    rows_of = {}
    for place, question in enumerate(question_ids):
        rows_of.setdefault(question, []).append(place)
    questions = list(rows_of)
    found = []
    for _ in range(resamples):
        taken = [draw.choice(questions) for _ in questions]
        total = 0.0
        for values in groups:
            drawn = [draw.choice(values) for _ in values]
            rows = [one_seed[row] for one_seed in drawn for question in taken for row in rows_of[question]]
            total += sum(rows) / len(rows)
        found.append(total)
    return np.array(found)


def test_a_mean_by_hand():
    values = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    found = seeds.pooled(values, ["p", "p", "q"], **DRAWS)
    assert found.mean == pytest.approx(0.5)
    # Question p is right in 3 of 4, q in 0 of 2: a resample of questions alone reaches no further than 0 and 0.75.
    assert 0.0 <= found.low < 0.5 < found.high <= 1.0


def test_the_resamples_are_those_of_a_slow_loop(monkeypatch):
    monkeypatch.setattr(seeds, "_mended", lambda draws_R, groups, counts_Q: draws_R)
    draw = np.random.default_rng(1)
    question_ids = sorted(f"q{draw.integers(14)}" for _ in range(40))
    a, b = draw.random((4, 40)), draw.random((3, 40)) + draw.random((3, 1))
    slow = slow_draws([a.tolist(), (-b).tolist()], question_ids, 4000)
    found = seeds.difference(a, b, question_ids, paired=False, resamples=20_000, seed=0)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.03)
    paired = seeds.difference(a, a / 2, question_ids, paired=True, resamples=20_000, seed=0)
    slow = slow_draws([(a / 2).tolist()], question_ids, 4000)
    assert (paired.low, paired.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)


def test_the_spread_is_that_of_the_analysis_of_variance():
    values = simulated(np.random.default_rng(5), 4, 30, 0.3, 0.2, 0.5)
    seed_S, question_Q = values.mean(axis=1), values.mean(axis=0)
    rest = values - seed_S[:, None] - question_Q + values.mean()
    of_rest = (rest**2).sum() / (3 * 29)
    expected = seed_S.var(ddof=1) / 4 + question_Q.var(ddof=1) / 30 - of_rest / (4 * 30)
    spread = seeds._spread([values], np.ones(30))
    assert spread.variance == pytest.approx(expected)
    doubled = seeds._spread([2 * values], np.full(30, 2.0))  # every question asked twice
    assert doubled.variance == pytest.approx(spread.variance) and doubled.df == pytest.approx(spread.df)


@pytest.mark.parametrize(("num_seeds", "of_seeds"), [(5, 0.1), (5, 0.3), (3, 0.1)])
def test_the_interval_covers_the_truth_where_seeds_differ_and_the_one_over_questions_does_not(num_seeds, of_seeds):
    draw = np.random.default_rng(7)
    covered = naive = 0
    num, questions = 200, names(40)
    for number in range(num):
        values = simulated(draw, num_seeds, 40, of_seeds, 0.3, 0.3)
        found = seeds.difference(values, np.zeros_like(values), questions, paired=True, resamples=500, seed=number)
        covered += found.low <= 0 <= found.high
        over_questions = bootstrap.interval(values.ravel(), questions * num_seeds, resamples=200, seed=number)
        naive += over_questions.low <= 0 <= over_questions.high
    assert 0.90 <= covered / num <= 0.99
    assert naive / num < covered / num - 0.05


def test_without_seed_effects_the_interval_is_not_much_wider_than_it_must_be():
    draw = np.random.default_rng(8)
    widths = []
    for number in range(50):
        values = simulated(draw, 5, 60, 0.0, 0.3, 0.3)
        found = seeds.difference(values, np.zeros_like(values), names(60), paired=True, resamples=500, seed=number)
        widths.append(found.high - found.low)
    ideal = 2 * 1.96 * (0.3**2 / 60 + 0.3**2 / 300) ** 0.5
    assert 0.95 < np.mean(widths) / ideal < 1.2


def test_one_seed_agrees_with_the_interval_over_questions():
    values = np.random.default_rng(2).random((1, 150)).round()
    found = seeds.pooled(values, names(150), resamples=20_000, seed=0)
    alone = bootstrap.interval(values[0], names(150), resamples=20_000, seed=0)
    assert found == pytest.approx(alone, abs=0.01)


def test_examples_of_one_question_move_together():
    values = np.random.default_rng(3).random((3, 50)).round()
    once = seeds.pooled(values, names(50), **DRAWS)
    thrice = seeds.pooled(np.repeat(values, 3, axis=1), names(50, each=3), **DRAWS)
    assert thrice == pytest.approx(once, abs=1e-9)


@pytest.mark.parametrize(("num_questions", "p_value"), [(1, 1.0), (2, 0.5), (3, 0.25), (10, 2 / 401)])
def test_a_few_questions_that_all_agree_are_no_proof(num_questions, p_value):
    a = np.ones((5, num_questions))
    found = seeds.difference(a, 0 * a, names(num_questions), paired=True, resamples=400, seed=1)
    assert found == (1.0, 1.0, 1.0, pytest.approx(p_value), num_questions)


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_interval_and_p_value_do_not_contradict_each_other(num_seeds, num_questions, number):
    draw = np.random.default_rng(number)
    a, b = draw.integers(0, 2, (2, num_seeds, num_questions)).astype(float)
    for paired in (True, False):
        found = seeds.difference(a, b, names(num_questions), paired=paired, resamples=400, seed=1)
        assert found.low <= found.difference + 1e-9 and found.difference <= found.high + 1e-9
        assert max(2 / 401, 2 / 2**num_questions) <= found.p_value <= 1.0
        assert -1.0 <= found.low and found.high <= 1.0
        if found.low > 0 or found.high < 0:
            assert found.p_value <= max(0.05 + 2 / 401, 2 / 2**num_questions)
        elif found.low < 0 < found.high:
            assert found.p_value >= 0.05 - 2 / 401
        assert found == seeds.difference(a, b, names(num_questions), paired=paired, resamples=400, seed=1)
        back = seeds.difference(b, a, names(num_questions), paired=paired, resamples=400, seed=1)
        assert back.difference == pytest.approx(-found.difference)
    pooled = seeds.pooled(a, names(num_questions), resamples=400, seed=1)
    assert 0.0 <= pooled.low <= pooled.mean + 1e-9 and pooled.mean <= pooled.high + 1e-9 and pooled.high <= 1.0


def test_two_equal_rows_do_not_differ():
    values = np.random.default_rng(4).random((3, 20)).round()
    assert seeds.difference(values, values, names(20), paired=True, **DRAWS) == (0.0, 0.0, 0.0, 1.0, 20)


def test_pairs_of_seeds_are_sharper_than_seeds_drawn_apart_where_they_share_their_luck():
    draw = np.random.default_rng(6)
    luck = 0.3 * draw.normal(size=(5, 1))
    b = luck + 0.1 * draw.normal(size=(5, 60))
    a = 0.1 + luck + 0.1 * draw.normal(size=(5, 60))
    together = seeds.difference(a, b, names(60), paired=True, **DRAWS)
    apart = seeds.difference(a, b, names(60), paired=False, **DRAWS)
    assert together.low > 0 > apart.low
    assert together.difference == pytest.approx(apart.difference)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no values"):
        seeds.pooled(np.zeros((0, 3)), names(3), **DRAWS)
    with pytest.raises(ValueError, match="3 examples but 2 question_ids"):
        seeds.pooled(np.zeros((2, 3)), names(2), **DRAWS)
    with pytest.raises(ValueError, match="a has 2 seeds, b has 3: not pairs"):
        seeds.difference(np.zeros((2, 3)), np.zeros((3, 3)), names(3), paired=True, **DRAWS)


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # Wikipedia, "Holm-Bonferroni method"
        ([0.01, 0.02, 0.03, 0.04, 0.05], [0.05, 0.08, 0.09, 0.09, 0.09]),  # R: p.adjust(p, "holm")
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.2], [0.2]),
        ([], []),
    ],
)
def test_holm_by_published_examples(p_values, corrected):
    assert seeds.holm(p_values) == pytest.approx(corrected)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lowers_no_p_value(p_values):
    corrected = seeds.holm(p_values)
    assert all(p <= raised <= 1.0 for p, raised in zip(p_values, corrected, strict=True))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert all(first[1] <= second[1] for first, second in pairwise(pairs))
    assert max(corrected) <= min(1.0, len(p_values) * max(p_values))
    for p, raised in zip(p_values, corrected, strict=True):  # by the definition, one by one
        smaller = sorted(p_values)
        steps = [min(1.0, (len(smaller) - k) * q) for k, q in enumerate(smaller) if q <= p]
        assert raised == pytest.approx(max(steps)) or p_values.count(p) > 1
