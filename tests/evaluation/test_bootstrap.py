"""Intervals and differences: against a slow bootstrap, against exact tests, and where there is nothing to resample."""

import itertools
import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import bootstrap

DRAWS = {"resamples": 2000, "seed": 0}
VALUES = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=12)


def slow_bootstrap(values, question_ids, resamples):
    """Draw questions with replacement, pool their rows, take the mean; the middle 95 % of the means."""
    draw = random.Random(0)
    rows_of = {}
    for value, question in zip(values, question_ids, strict=True):
        rows_of.setdefault(question, []).append(value)
    questions = list(rows_of)
    means = []
    for _ in range(resamples):
        rows = [value for _ in questions for value in rows_of[draw.choice(questions)]]
        means.append(sum(rows) / len(rows))
    return np.quantile(means, [0.025, 0.975])


def test_the_interval_agrees_with_a_slow_bootstrap_over_questions():
    draw = random.Random(1)
    question_ids = [f"q{draw.randrange(60)}" for _ in range(150)]
    level = {question: draw.random() for question in question_ids}
    values = [float(draw.random() < level[question]) for question in question_ids]
    found = bootstrap.interval(values, question_ids, resamples=20_000, seed=0)
    low, high = slow_bootstrap(values, question_ids, 5_000)
    assert found.mean == pytest.approx(sum(values) / len(values))
    assert found.low == pytest.approx(low, abs=0.012) and found.high == pytest.approx(high, abs=0.012)


def test_rows_of_one_question_move_together():
    values = [float(index % 2) for index in range(100)]
    alone = bootstrap.interval(values, **DRAWS)
    question_ids = [f"q{index}" for index in range(100)]
    tripled = bootstrap.interval(values * 3, question_ids * 3, **DRAWS)
    assert (tripled.low, tripled.high) == pytest.approx((alone.low, alone.high), abs=0.02)
    assert bootstrap.interval(values * 3, **DRAWS).high < alone.high - 0.02  # what one must not do


def test_the_interval_covers_the_true_mean_about_95_times_in_100():
    draw = np.random.default_rng(3)
    intervals = [bootstrap.interval(draw.random(80) < 0.3, resamples=400, seed=seed) for seed in range(300)]
    covered = np.mean([found.low <= 0.3 <= found.high for found in intervals])
    assert 0.90 <= covered <= 0.98


@given(VALUES, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_order_and_names_of_questions_change_nothing_but_the_draw(values, shuffle):
    found = bootstrap.interval(values, resamples=100, seed=0)
    assert found.low <= found.mean + 1e-12 and found.mean <= found.high + 1e-12
    assert min(values) <= found.low and found.high <= max(values)
    assert found == bootstrap.interval(values, resamples=100, seed=0)
    shuffled = shuffle.sample(values, len(values))
    assert bootstrap.interval(shuffled, resamples=100, seed=0).mean == pytest.approx(found.mean)


@pytest.mark.parametrize(
    ("values", "question_ids"),
    [([1.0, 1.0, 1.0], None), ([0.25], None), ([0.0, 0.5], ["q", "q"]), ([0.0, 0.5, 0.5, 0.0], ["p", "p", "q", "q"])],
)
def test_without_spread_between_questions_the_interval_is_a_point(values, question_ids):
    mean = sum(values) / len(values)
    assert bootstrap.interval(values, question_ids, **DRAWS) == (mean, mean, mean)


def test_no_rows_and_rows_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="no values"):
        bootstrap.interval([], **DRAWS)
    with pytest.raises(ValueError, match="2 values but 1 question_ids"):
        bootstrap.interval([0.0, 1.0], ["q"], **DRAWS)
    with pytest.raises(ValueError, match="not the same rows"):
        bootstrap.paired_difference([1.0], [1.0, 0.0], **DRAWS)


@pytest.mark.parametrize(("wins", "losses"), [(9, 2), (1, 0), (3, 3), (0, 12)])
def test_right_or_wrong_answers_give_mcnemars_exact_p_value(wins, losses):
    a = [1.0] * wins + [0.0] * losses + [1.0] * 5
    b = [0.0] * wins + [1.0] * losses + [1.0] * 5
    num_discordant = wins + losses
    tail = sum(math.comb(num_discordant, k) for k in range(max(wins, losses), num_discordant + 1)) / 2**num_discordant
    found = bootstrap.paired_difference(a, b, **DRAWS)
    assert found.p_value == pytest.approx(min(1.0, 2 * tail))
    assert found.difference == pytest.approx((wins - losses) / len(a))
    assert found.num_questions == len(a)


@given(st.lists(st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1.0]), min_size=1, max_size=9))
@settings(max_examples=40)
def test_few_questions_give_the_p_value_of_all_sign_flips(differences):
    observed = abs(sum(differences))
    flips = [
        abs(sum(sign * value for sign, value in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([flip >= observed - 1e-12 for flip in flips])
    found = bootstrap.paired_difference(differences, [0.0] * len(differences), **DRAWS)
    assert found.p_value == pytest.approx(expected)


def test_the_difference_is_paired_and_resampled_by_question():
    draw = random.Random(2)
    question_ids = [f"q{index % 40}" for index in range(120)]
    level = {question: draw.random() for question in question_ids}
    b = [float(draw.random() < level[question]) for question in question_ids]
    a = [value if draw.random() < 0.7 else 1.0 for value in b]
    found = bootstrap.paired_difference(a, b, question_ids, **DRAWS)
    low, high = slow_bootstrap([x - y for x, y in zip(a, b, strict=True)], question_ids, 5_000)
    assert found.low == pytest.approx(low, abs=0.015) and found.high == pytest.approx(high, abs=0.015)
    assert found.num_questions == 40
    assert found.low > 0 and found.p_value < 0.01
    back = bootstrap.paired_difference(b, a, question_ids, **DRAWS)
    assert back.difference == pytest.approx(-found.difference) and back.p_value < 0.01


def test_two_equal_methods_do_not_differ():
    values = [0.0, 1.0, 0.5, 1.0]
    assert bootstrap.paired_difference(values, values, **DRAWS) == (0.0, 0.0, 0.0, 1.0, 4)


def test_a_slope_by_literal_rows():
    found = bootstrap.slope([0, 1, 2, 3], [1.0, 0.5, 0.5, 0.0], **DRAWS)
    assert found.mean == pytest.approx(-0.3)
    assert found.low <= found.mean <= found.high


@given(
    st.lists(st.tuples(st.integers(0, 11), st.floats(0, 1, width=16)), min_size=2, max_size=20),
    st.floats(-2, 2),
    st.floats(-2, 2),
)
@settings(max_examples=40, deadline=None)
def test_a_slope_is_that_of_numpy_and_moves_with_a_line(rows, tilt, lift):
    places, values = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    found = bootstrap.slope(places, values, resamples=50, seed=0)
    if len(set(places)) == 1:
        assert found is None
        return
    assert found.mean == pytest.approx(np.polyfit(places, values, 1)[0], abs=1e-9)
    tilted = bootstrap.slope(places + 1000, values + tilt * places + lift, resamples=50, seed=0)
    assert tilted == pytest.approx([value + tilt for value in found], abs=1e-6)


def test_the_interval_of_a_slope_agrees_with_a_slow_bootstrap_over_questions():
    draw = np.random.default_rng(2)
    question = draw.integers(40, size=120)
    places = draw.integers(12, size=120).astype(float)
    values = (draw.random(120) < 0.8 - 0.04 * places + 0.1 * (question % 2)).astype(float)
    found = bootstrap.slope(places, values, [f"q{number}" for number in question], resamples=5000, seed=0)
    drawn = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(question == q) for q in draw.choice(np.unique(question), 40)])
        drawn.append(np.polyfit(places[rows], values[rows], 1)[0])
    low, high = np.quantile(drawn, [0.025, 0.975])
    assert found.low == pytest.approx(low, abs=0.003) and found.high == pytest.approx(high, abs=0.003)


def test_a_slope_of_one_question_has_no_spread_and_of_one_place_is_none():
    assert bootstrap.slope([0, 1], [0.0, 1.0], ["q", "q"], **DRAWS) == (1.0, 1.0, 1.0)
    assert bootstrap.slope([3, 3], [0.0, 1.0], **DRAWS) is None
    with pytest.raises(ValueError, match="not the same rows"):
        bootstrap.slope([0], [0.0, 1.0], **DRAWS)
