"""The ablation table: who is compared with whom, at which length, and what is one comparison."""

import json
from typing import Any

import numpy as np
import pytest

from pipeline.report import ablation_table
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.ablations import tabulate

FAST = {"reference": "vanilla", "claimed": ["focused", "gone"], "seconds": 12.5, "resamples": 400}


def row(name: str, hits: dict[int, list[int]], *, method: str = "focused", group: str = "main", **more: Any) -> Any:
    """A row whose questions stand over 4 documents (all right) and over 12 (as given)."""
    answers = {
        seed: [
            {
                "example_id": f"q{index}/{length}", "question_id": f"q{index}", "benchmark": "bios",
                "num_documents": length, "gold_position": index % length, "score": float(hit if length == 12 else 1),
                "error": "correct" if hit or length == 4 else "distraction" if index % 2 else "other",
            }
            for index, hit in enumerate(values)
            for length in (4, 12)
        ]
        for seed, values in hits.items()
    }  # fmt: skip
    given = {"label": name, "input": "full", "overrides": {}, "identity": ("full", name), **more}
    return tabulate.Answered(name=name, group=group, method=method, answers=answers, **given)


def changed(found: Any, **more: Any) -> Any:
    return tabulate.Answered(**{**found.__dict__, "name": "more", "identity": ("full", "more"), **more})


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
    again = row("again", {}, identity=VANILLA.identity, method="vanilla")
    again = tabulate.Answered(**{**again.__dict__, "answers": VANILLA.answers})
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
    fixed = {1: [{**answer, "gold_position": position} for answer in found.answers[1]]}
    again = tabulate.Answered(**{**found.__dict__, "answers": fixed, "name": "y", "identity": ("y",)})
    table = tabulate.tabulate([again], **FAST)
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
    longer = [{**answer, "example_id": "q1/16", "num_documents": 16} for answer in VANILLA.answers[1][:1]]
    more = changed(VANILLA, answers={1: [*VANILLA.answers[1], *longer]})
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
    other = [{**answer, column: value} if answer["example_id"] == "q0/12" else answer for answer in VANILLA.answers[1]]
    with pytest.raises(ArtifactError, match=f"row more, seed 1.*: {says}" if column != "question_id" else says):
        tabulate.tabulate([VANILLA, changed(VANILLA, answers={1: other})], **FAST)


def test_two_rows_of_one_name_are_no_table():
    with pytest.raises(ValueError, match="two rows have one name"):
        tabulate.tabulate([VANILLA, VANILLA], **FAST)


def test_the_record_is_read_back_and_a_broken_one_is_named():
    table = tabulate.tabulate([VANILLA, row("focused", {1: [1] * 20})], **FAST)
    record = json.loads(json.dumps(table.model_dump(mode="json")))
    assert ablation_table.parse(record) == table
    assert ablation_table.parse({"rows": []}).rows == []
    assert set(record) == {
        "benchmark", "min_documents", "num_documents", "num_questions", "measure", "correction", "num_comparisons",
        "reference", "claimed", "seconds", "code", "rows",
    }  # fmt: skip
    with pytest.raises(ArtifactError, match="the whole: value error, there are rows, but no measure"):
        ablation_table.parse(record | {"measure": None})
    del record["rows"][0]["pooled"]["low"]
    with pytest.raises(ArtifactError, match=r"rows.0.pooled.low: field required"):
        ablation_table.parse(record)
    with pytest.raises(ArtifactError, match="the whole: input should be"):
        ablation_table.parse([])


def test_equal_answers_give_equal_tables():
    rows = [VANILLA, row("focused", {1: [1, 1, 1, 0] * 5, 2: [1] * 20})]
    assert tabulate.tabulate(rows, **FAST) == tabulate.tabulate(rows, **FAST)
