"""Who is compared with whom, at which length, what is one comparison; and the crossed bootstrap behind it."""

import dataclasses
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.evaluation import bootstrap
from pipeline.report import ablation_table
from pipeline.report.ablation_table import AblationTable
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.ablations import tabulate

FAST = {"reference": "vanilla", "claimed": ["focused", "gone"], "seconds": 12.5, "resamples": 400}


def row(name: str, hits: dict[int, list[int]], *, method: str = "focused", group: str = "main", **more: Any) -> Any:
    """A row whose questions stand over 4 documents (all right) and over 12 (as given)."""
    answers = [
        {
            "seed": seed, "example_id": f"q{index}/{length}", "question_id": f"q{index}", "benchmark": "bios",
            "num_documents": length, "gold_position": index % length, "score": float(hit if length == 12 else 1),
            "error": "correct" if hit or length == 4 else "distraction" if index % 2 else "other",
        }
        for seed, values in hits.items()
        for index, hit in enumerate(values)
        for length in (4, 12)
    ]  # fmt: skip
    given = {"label": name, "input": "full", "overrides": {}, "identity": ("full", name), **more}
    return tabulate.AblationAnswers(name=name, group=group, method=method, answers=pl.DataFrame(answers), **given)


def changed(found: Any, **more: Any) -> Any:
    return dataclasses.replace(found, **{"name": "more", "identity": ("full", "more"), **more})


VANILLA = row("vanilla", {1: [1, 0] * 10, 2: [0, 1] * 10, 3: [1, 0] * 10}, method="vanilla")


def test_the_longest_context_alone_is_measured():
    table = tabulate.tabulate([VANILLA], **FAST)
    (found,) = table.rows
    assert (table.benchmark, table.num_documents, table.num_questions, table.measure) == ("bios", 12, 20, "exact_match")
    assert (table.num_comparisons, table.seconds, found.to_reference) == (0, 12.5, None)
    assert (table.min_documents, table.claimed) == (12, [])
    assert found.pooled.mean == pytest.approx(0.5)
    assert [(one.seed, one.mean) for one in found.per_seed] == [(1, 0.5), (2, 0.5), (3, 0.5)]
    assert found.distraction_rate.mean == pytest.approx(20 / 60)  # seeds 1 and 3 err at odd questions


def test_with_every_length_the_shorter_contexts_have_a_table_that_is_corrected_by_itself():
    focused = row("focused", {1: [1, 1] * 10, 2: [1, 1] * 10, 3: [1, 1] * 10})
    table = tabulate.tabulate([VANILLA, focused], every_length=True, **FAST)
    (short,) = table.shorter
    assert (short.min_documents, short.num_documents, short.shorter, short.claimed) == (4, 4, [], ["focused"])
    assert [found.pooled.mean for found in short.rows] == [1.0, 1.0]
    plain = tabulate.tabulate([VANILLA, focused], **FAST)
    assert table.model_copy(update={"shorter": []}) == plain
    lines = ablation_table.markdown(table)
    assert lines.startswith(ablation_table.markdown(plain)) and "\n## Over 4 documents\n\n" in lines


def test_a_difference_is_paired_by_seed_where_two_seeds_are_shared():
    rng = np.random.default_rng(0)
    lucky = {seed: [int(x) for x in rng.random(40) < 0.2 + 0.2 * seed] for seed in (1, 2, 3)}
    more = {seed: [1 if index < 6 else hit for index, hit in enumerate(values)] for seed, values in lucky.items()}
    vanilla = row("vanilla", lucky, method="vanilla")
    focused = row("focused", {3: more[3], 2: more[2], 9: more[1]})
    found = tabulate.tabulate([vanilla, focused], **FAST).rows[1].to_reference
    assert found is not None and found.num_seeds == 2  # seed 9 has no partner, seed 1 neither
    expected = np.mean([np.mean(more[seed]) - np.mean(lucky[seed]) for seed in (2, 3)])
    assert found.difference == pytest.approx(expected)
    assert found.num_questions == 40


def test_one_seed_is_compared_with_all_seeds_of_vanilla():
    base = row("base", {1: [0] * 20}, method="base")
    found = tabulate.tabulate([VANILLA, base], **FAST).rows[1].to_reference
    assert found is not None and (found.difference, found.num_seeds) == (pytest.approx(-0.5), 1)
    assert found.high < 0


def test_a_row_is_compared_with_the_row_that_it_names():
    plenty = row("plenty", {seed: [1] * 18 + [0] * 2 for seed in (1, 2, 3)}, method="vanilla", reference="plenty")
    focused = row("focused", {seed: [1] * 15 + [0] * 5 for seed in (1, 2, 3)}, reference="plenty")
    lost = row("lost", {seed: [1] * 15 + [0] * 5 for seed in (1, 2, 3)}, reference="not done yet")
    table = tabulate.tabulate([VANILLA, plenty, focused, lost], **FAST)
    assert table.rows[1].to_reference is None and table.rows[3].to_reference is None
    found = table.rows[2].to_reference
    assert found is not None and found.difference == pytest.approx(-0.15)
    assert table.num_comparisons == 1 and table.rows[2].reference == "plenty"
    assert (table.label_of("plenty"), table.label_of(None), table.label_of("gone")) == ("plenty", "vanilla", "gone")


def test_rows_of_the_same_runs_are_one_comparison():
    hits = {1: [1] * 20, 2: [1] * 15 + [0] * 5, 3: [1] * 20}
    same = [row(name, hits, identity=("full", "x")) for name in ("focused", "token", "weight-0.1")]
    other = row("drop", {1: [0] * 20, 2: [0] * 20, 3: [1] + [0] * 19})
    again = changed(VANILLA, name="again", identity=VANILLA.identity)
    table = tabulate.tabulate([VANILLA, *same, other, again], **FAST)
    assert table.num_comparisons == 2
    assert table.rows[1].to_reference == table.rows[2].to_reference == table.rows[3].to_reference
    assert table.rows[-1].to_reference is None  # vanilla under another name
    for found in table.rows[1:5]:
        assert found.to_reference is not None
        assert found.to_reference.p_value <= found.to_reference.p_corrected <= 2 * found.to_reference.p_value


def test_distraction_errors_are_compared_as_the_score_is():
    never = row("never", {seed: [1] * 20 for seed in (1, 2, 3)})
    once = row("once", {seed: [1, 0] + [1] * 18 for seed in (1, 2, 3)})  # at question 1, which is odd
    table = tabulate.tabulate([VANILLA, never, once], **FAST)
    fewer = [found.to_reference.distraction_rate for found in table.rows[1:] if found.to_reference is not None]
    assert [one.difference for one in fewer] == [pytest.approx(-20 / 60), pytest.approx(1 / 20 - 20 / 60)]
    assert fewer[0].low < fewer[0].difference < fewer[0].high


def test_the_slope_is_from_the_first_place_to_the_last():
    late = row("late", {seed: [int(index % 12 >= 6) for index in range(24)] for seed in (1, 2)}, method="vanilla")
    even = row("even", {seed: [1] * 24 for seed in (1, 2)}, reference="late")
    first, second = tabulate.tabulate([late, even], **FAST).rows
    places = np.arange(12) / 11
    expected = np.polyfit(places, [0.0] * 6 + [1.0] * 6, 1)[0]
    assert first.slope is not None and first.slope.mean == pytest.approx(expected)
    assert first.slope.low < expected < first.slope.high
    assert second.slope is not None and second.slope.mean == pytest.approx(0.0)
    assert second.to_reference is not None and second.to_reference.slope is not None
    assert second.to_reference.slope.difference == pytest.approx(-expected)


@pytest.mark.parametrize("position", [-1, 3])
def test_places_that_are_unknown_or_one_have_no_slope(position):
    found = row("x", {1: [1, 0, 1]})
    fixed = found.answers.with_columns(gold_position=pl.lit(position))
    table = tabulate.tabulate([changed(found, answers=fixed)], **FAST)
    assert table.rows[0].slope is None


def test_without_the_reference_nothing_is_compared():
    table = tabulate.tabulate([row("focused", {1: [1, 0, 1]})], **FAST)
    assert table.rows[0].to_reference is None and table.num_comparisons == 0


def test_rows_that_answered_other_questions_are_named():
    said = r"row {}, seed 1, and the first row answer different examples \({}, q1\S* is one\): rows of one table"
    short, long = row("short", {1: [1] * 15}), row("long", {1: [1] * 24})
    with pytest.raises(ArtifactError, match=said.format("short", 5)):
        tabulate.tabulate([VANILLA, short], **FAST)
    with pytest.raises(ArtifactError, match=said.format("vanilla", 5)):
        tabulate.tabulate([short, VANILLA], **FAST)
    first = VANILLA.answers.filter(pl.col("seed") == 1)
    longer = first[:1].with_columns(example_id=pl.lit("q1/16"), num_documents=pl.lit(16, pl.Int64))
    more = changed(VANILLA, answers=pl.concat([first, longer]))
    with pytest.raises(ArtifactError, match=said.format("more", 1)):
        tabulate.tabulate([VANILLA, more], **FAST)
    with pytest.raises(ArtifactError, match=said.format("long", 4).replace("q1", "q2")):
        tabulate.tabulate([VANILLA, long], **FAST)


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [
        ("question_id", "other", r"answer different examples \(2, q0/12 is one"),
        ("gold_position", 5, "the gold documents stand in other places"),
        ("score", float("nan"), "a score is no number"),
    ],
)
def test_answers_that_cannot_be_compared_are_refused(column: str, value: Any, says: str):
    here = pl.col("example_id") == "q0/12"
    other = VANILLA.answers.filter(pl.col("seed") == 1).with_columns(
        pl.when(here).then(pl.lit(value)).otherwise(pl.col(column)).alias(column)
    )
    with pytest.raises(ArtifactError, match=f"row more, seed 1.*: {says}" if column != "question_id" else says):
        tabulate.tabulate([VANILLA, changed(VANILLA, answers=other)], **FAST)


def test_two_rows_of_one_name_are_no_table():
    with pytest.raises(ValueError, match="two rows have one name"):
        tabulate.tabulate([VANILLA, VANILLA], **FAST)


def test_the_record_is_read_back_and_a_broken_one_is_named(tmp_path: Path):
    def read(record: object) -> AblationTable:
        path = tmp_path / "ablations.json"
        path.write_text(json.dumps(record))
        return ablation_table.read(path)

    table = tabulate.tabulate([VANILLA, row("focused", {1: [1] * 20})], **FAST)
    record = table.model_dump(mode="json")
    assert read(record) == table
    assert read({"rows": []}).rows == []
    assert set(record) == {
        "benchmark", "min_documents", "num_documents", "num_questions", "measure", "correction", "num_comparisons",
        "reference", "claimed", "seconds", "code", "rows", "shorter",
    }  # fmt: skip
    with pytest.raises(ArtifactError, match="the whole: value error, there are rows, but no measure"):
        read(record | {"measure": None})
    del record["rows"][0]["pooled"]["low"]
    with pytest.raises(ArtifactError, match=r"rows.0.pooled.low: field required"):
        read(record)
    with pytest.raises(ArtifactError, match="the whole: input should be"):
        read([])


def test_equal_answers_give_equal_tables():
    rows = [VANILLA, row("focused", {1: [1, 1, 1, 0] * 5, 2: [1] * 20})]
    assert tabulate.tabulate(rows, **FAST) == tabulate.tabulate(rows, **FAST)


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
    found = tabulate.crossed_mean(values, ["p", "p", "q"], **DRAWS)
    assert found.mean == pytest.approx(0.5)
    # Question p is right in 3 of 4, q in 0 of 2: a resample of questions alone reaches no further than 0 and 0.75.
    assert 0.0 <= found.low < 0.5 < found.high <= 1.0


def test_the_resamples_are_those_of_a_slow_loop(monkeypatch):
    monkeypatch.setattr(tabulate, "_rescaled", lambda draws_R, mean, variance, df: draws_R)
    draw = np.random.default_rng(1)
    question_ids = sorted(f"q{draw.integers(14)}" for _ in range(40))
    a, b = draw.random((4, 40)), draw.random((3, 40)) + draw.random((3, 1))
    slow = slow_draws([a.tolist(), (-b).tolist()], question_ids, 4000)
    found = tabulate.crossed_difference(a, b, question_ids, paired=False, resamples=20_000, seed=0)
    assert found.difference == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.03)
    paired = tabulate.crossed_difference(a, a / 2, question_ids, paired=True, resamples=20_000, seed=0)
    slow = slow_draws([(a / 2).tolist()], question_ids, 4000)
    assert (paired.low, paired.high) == pytest.approx(np.quantile(slow, [0.025, 0.975]), abs=0.01)


def test_the_spread_is_that_of_the_analysis_of_variance():
    values = simulated(np.random.default_rng(5), 4, 30, 0.3, 0.2, 0.5)
    seed_S, question_Q = values.mean(axis=1), values.mean(axis=0)
    rest = values - seed_S[:, None] - question_Q + values.mean()
    of_rest = (rest**2).sum() / (3 * 29)
    expected = seed_S.var(ddof=1) / 4 + question_Q.var(ddof=1) / 30 - of_rest / (4 * 30)
    variance, df = tabulate._variance([values], np.ones(30))
    assert variance == pytest.approx(expected)
    doubled = tabulate._variance([2 * values], np.full(30, 2.0))  # every question asked twice
    assert doubled == pytest.approx((variance, df))


@pytest.mark.parametrize(("num_seeds", "of_seeds"), [(5, 0.1), (5, 0.3), (3, 0.1)])
def test_the_interval_covers_the_truth_where_seeds_differ_and_the_one_over_questions_does_not(num_seeds, of_seeds):
    draw = np.random.default_rng(7)
    covered = naive = 0
    num, questions = 200, names(40)
    for number in range(num):
        values = simulated(draw, num_seeds, 40, of_seeds, 0.3, 0.3)
        found = tabulate.crossed_difference(
            values, np.zeros_like(values), questions, paired=True, resamples=500, seed=number
        )
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
        found = tabulate.crossed_difference(
            values, np.zeros_like(values), names(60), paired=True, resamples=500, seed=number
        )
        widths.append(found.high - found.low)
    ideal = 2 * 1.96 * (0.3**2 / 60 + 0.3**2 / 300) ** 0.5
    assert 0.95 < np.mean(widths) / ideal < 1.2


def test_one_seed_agrees_with_the_interval_over_questions():
    values = np.random.default_rng(2).random((1, 150)).round()
    found = tabulate.crossed_mean(values, names(150), resamples=20_000, seed=0)
    alone = bootstrap.interval(values[0], names(150), resamples=20_000, seed=0)
    assert found == pytest.approx(alone, abs=0.01)


def test_examples_of_one_question_move_together():
    values = np.random.default_rng(3).random((3, 50)).round()
    once = tabulate.crossed_mean(values, names(50), **DRAWS)
    thrice = tabulate.crossed_mean(np.repeat(values, 3, axis=1), names(50, each=3), **DRAWS)
    assert thrice == pytest.approx(once, abs=1e-9)


@pytest.mark.parametrize(("num_questions", "p_value"), [(1, 1.0), (2, 0.5), (3, 0.25), (10, 2 / 401)])
def test_a_few_questions_that_all_agree_are_no_proof(num_questions, p_value):
    a = np.ones((5, num_questions))
    found = tabulate.crossed_difference(a, 0 * a, names(num_questions), paired=True, resamples=400, seed=1)
    assert found == (1.0, 1.0, 1.0, pytest.approx(p_value), num_questions)


@given(st.integers(1, 5), st.integers(1, 12), st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_interval_and_p_value_do_not_contradict_each_other(num_seeds, num_questions, number):
    draw = np.random.default_rng(number)
    a, b = draw.integers(0, 2, (2, num_seeds, num_questions)).astype(float)
    for paired in (True, False):
        found = tabulate.crossed_difference(a, b, names(num_questions), paired=paired, resamples=400, seed=1)
        assert found.low <= found.difference + 1e-9 and found.difference <= found.high + 1e-9
        assert max(2 / 401, 2 / 2**num_questions) <= found.p_value <= 1.0
        assert -1.0 <= found.low and found.high <= 1.0
        if found.low > 0 or found.high < 0:
            assert found.p_value <= max(0.05 + 2 / 401, 2 / 2**num_questions)
        elif found.low < 0 < found.high:
            assert found.p_value >= 0.05 - 2 / 401
        assert found == tabulate.crossed_difference(a, b, names(num_questions), paired=paired, resamples=400, seed=1)
        back = tabulate.crossed_difference(b, a, names(num_questions), paired=paired, resamples=400, seed=1)
        assert back.difference == pytest.approx(-found.difference)
    pooled = tabulate.crossed_mean(a, names(num_questions), resamples=400, seed=1)
    assert 0.0 <= pooled.low <= pooled.mean + 1e-9 and pooled.mean <= pooled.high + 1e-9 and pooled.high <= 1.0


def test_two_equal_rows_do_not_differ():
    values = np.random.default_rng(4).random((3, 20)).round()
    assert tabulate.crossed_difference(values, values, names(20), paired=True, **DRAWS) == (0.0, 0.0, 0.0, 1.0, 20)


def test_pairs_of_seeds_are_sharper_than_seeds_drawn_apart_where_they_share_their_luck():
    draw = np.random.default_rng(6)
    luck = 0.3 * draw.normal(size=(5, 1))
    b = luck + 0.1 * draw.normal(size=(5, 60))
    a = 0.1 + luck + 0.1 * draw.normal(size=(5, 60))
    together = tabulate.crossed_difference(a, b, names(60), paired=True, **DRAWS)
    apart = tabulate.crossed_difference(a, b, names(60), paired=False, **DRAWS)
    assert together.low > 0 > apart.low
    assert together.difference == pytest.approx(apart.difference)


def test_values_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="no values"):
        tabulate.crossed_mean(np.zeros((0, 3)), names(3), **DRAWS)
    with pytest.raises(ValueError, match="3 values but 2 question_ids"):
        tabulate.crossed_mean(np.zeros((2, 3)), names(2), **DRAWS)
    with pytest.raises(ValueError, match="a has 2 seeds, b has 3: not pairs"):
        tabulate.crossed_difference(np.zeros((2, 3)), np.zeros((3, 3)), names(3), paired=True, **DRAWS)


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
    assert tabulate.holm(p_values) == pytest.approx(corrected)


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12))
def test_holm_keeps_the_order_and_lowers_no_p_value(p_values):
    corrected = tabulate.holm(p_values)
    assert all(p <= raised <= 1.0 for p, raised in zip(p_values, corrected, strict=True))
    pairs = sorted(zip(p_values, corrected, strict=True))
    assert all(first[1] <= second[1] for first, second in pairwise(pairs))
    assert max(corrected) <= min(1.0, len(p_values) * max(p_values))
    for p, raised in zip(p_values, corrected, strict=True):  # by the definition, one by one
        smaller = sorted(p_values)
        steps = [min(1.0, (len(smaller) - k) * q) for k, q in enumerate(smaller) if q <= p]
        assert raised == pytest.approx(max(steps)) or p_values.count(p) > 1
