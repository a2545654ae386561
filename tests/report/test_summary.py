"""Summaries of predictions: groups, their ranges, order and pairs."""

import json
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import bootstrap
from pipeline.report import summary
from pipeline.report.summary import Range, ranges
from pipeline.runtime.errors import ArtifactError

TO = "\N{EN DASH}"


def answer(
    example: str,
    hit: int,
    method: str = "vanilla",
    given: str = "full",
    *,
    length: int = 4,
    position: int = 0,
    **more: Any,
) -> dict[str, Any]:
    return {
        "example_id": example, "question_id": example.split("/")[0], "benchmark": "made", "method": method,
        "input": given, "num_documents": length, "gold_position": position, "prompt_tokens": 100,
        "prediction": "x", "answers": ["x"], "answer_types": [], "subset": "", "gold_option": -1,
        "generated_option": -1, "likeliest_option": -1, "score": float(hit), "exact_match": float(hit),
        "token_f1": float(hit), "best_subspan_em": float(hit),
        "error": "correct" if hit else "distraction", "distractor_id": "" if hit else "d", **more,
    }  # fmt: skip


def frame(rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Predictions as the report reads them."""
    return pl.DataFrame(rows, schema=list(summary.COLUMNS), infer_schema_length=None)


def summarised(rows: list[dict[str, Any]], resamples: int = 100) -> summary.Summary:
    return summary.summarise(frame(rows), resamples=resamples)


def test_methods_come_in_the_order_of_the_paper_and_new_ones_behind_them():
    found = summarised(
        [
            answer("q1", 1, method, given)
            for method in ("focused", "focused-drop", "vanilla", "alternative", "base")
            for given in ("retrieval", "full")
        ],
        resamples=100,
    )
    assert [row.name for row in found.longest] == [
        "base", "base + retrieval", "vanilla", "vanilla + retrieval", "focused", "focused + retrieval",
        "alternative", "alternative + retrieval", "focused-drop", "focused-drop + retrieval",
    ]  # fmt: skip


def test_the_longest_context_is_what_the_main_rows_measure():
    found = summarised(
        [answer("q1/a", 1, length=4), answer("q1/b", 0, length=8), answer("q2/b", 1, length=8, prompt_tokens=300)],
        resamples=100,
    )
    (row,) = found.longest
    assert (row.group, row.num_examples, row.score.mean) == ("8", 2, 0.5)
    assert (row.correct_rate, row.distraction_rate, row.other_rate) == (0.5, 0.5, 0.0)
    assert row.mean_prompt_tokens == 200
    assert row.to_vanilla is None
    assert [(at.group, at.score.mean) for at in found.by_length] == [("4", 1.0), ("8", 0.5)]
    assert (found.num_examples, found.num_questions, found.documents) == (3, 2, "8 documents")


def test_a_score_that_is_no_number_is_named():
    rows = [answer("q1", 1), {**answer("q2", 1), "score": float("nan")}]
    with pytest.raises(ArtifactError, match=r"of \w+: score of example q2 is not a number; run `dvc repro -f"):
        summarised(rows, resamples=10)


def test_the_difference_to_vanilla_pairs_the_same_examples_whatever_their_order():
    hits = {"vanilla": [1, 0, 0, 1, 0, 0], "focused": [1, 1, 0, 1, 1, 0]}
    rows = [answer(f"q{index}", hit, method) for method in hits for index, hit in enumerate(hits[method])]
    found = summarised(rows, resamples=200)
    shuffled = summarised(rows[6:][::-1] + rows[:6], resamples=200)
    focused = found.longest[1]
    assert focused.to_vanilla == bootstrap.paired_difference(
        hits["focused"], hits["vanilla"], [f"q{index}" for index in range(6)], resamples=200, seed=0
    )
    assert focused.to_vanilla is not None and focused.to_vanilla.difference == pytest.approx(2 / 6)
    assert shuffled.longest[1].to_vanilla.difference == focused.to_vanilla.difference


def test_positions_count_from_one_at_the_longest_context_only_and_unknown_ones_are_left_out():
    rows = [answer("q0", 1, length=2, position=1)]
    rows += [answer(f"p{place}", place == 2, length=4, position=place) for place in (0, 2, -1)]
    found = summarised(rows, resamples=100)
    assert [(row.group, row.score.mean) for row in found.by_position] == [("1", 0.0), ("3", 1.0)]


def test_many_positions_become_thirds():
    rows = [answer(f"q{index}", 1, length=12, position=index % 12) for index in range(48)]
    found = summarised(rows, resamples=100)
    assert [(row.group, row.num_examples) for row in found.by_position] == [
        (f"1{TO}4", 16),
        (f"5{TO}8", 16),
        (f"9{TO}12", 16),
    ]


def test_contexts_of_any_number_of_documents_become_a_few_ranges():
    rows = [answer(f"q{length}", 1, length=length) for length in range(1, 41)]
    found = summarised(rows, resamples=100)
    assert [length.label() for length in found.lengths] == [f"1{TO}10", f"11{TO}20", f"21{TO}30", f"31{TO}40"]
    assert found.longest[0].num_examples == 10
    assert found.documents == f"31{TO}40 documents"


def test_a_benchmark_with_its_own_measure_is_summed_up_by_it_and_by_its_official_evaluator():
    choice = {"benchmark": "quality", "gold_option": 2, "generated_option": -1, "length": 1}
    rows = [
        answer("q1", 1, likeliest_option=2, subset="hard", **choice),
        answer("q2", 0, likeliest_option=0, subset="easy", **choice),
        answer("q3", 0, likeliest_option=0, subset="", **choice),
    ]
    found = summarised(rows, resamples=100)
    assert found.measure == "accuracy"
    assert found.longest[0].score.mean == pytest.approx(1 / 3)
    figures = found.official["vanilla"]
    assert figures["accuracy_likeliest"] == pytest.approx(1 / 3)
    assert (figures["accuracy_hard_likeliest"], figures["num_hard"]) == (1.0, 1)
    assert (figures["accuracy_generated"], figures["unparseable"]) == (0.0, 1.0)
    assert figures["sat_style_likeliest"] == pytest.approx((1 - 2 / 3) / 3)
    assert summarised([answer("q1", 1)], resamples=100).official == {"vanilla": {}}


def test_an_example_answered_twice_is_refused():
    with pytest.raises(ArtifactError, match=r"vanilla answer example q1 twice .*dvc repro -f evaluate@vanilla"):
        summarised([answer("q1", 1), answer("q1", 0)], resamples=100)


def test_methods_that_answered_different_examples_are_refused():
    rows = [answer("q1", 1), answer("q1", 1, "focused"), answer("q2", 1, "focused")]
    with pytest.raises(ArtifactError, match=r"vanilla on full and focused on full .* \(1, q2 is one\)"):
        summarised(rows, resamples=100)


def test_no_predictions_are_refused():
    with pytest.raises(ArtifactError, match="no predictions"):
        summarised([], resamples=100)


def test_the_record_is_flat_numbers_on_top_and_the_details_in_lists():
    rows = [answer(f"q{index}", index % 2, method) for method in ("vanilla", "focused") for index in range(4)]
    rows += [answer(f"q{index}", 1, "focused", "retrieval") for index in range(4)]
    record = summary.record(summarised(rows, resamples=100), {"mask": {"top_k": 4}})
    assert record["exact_match"] == {"vanilla": 0.5, "focused": 0.5, "focused_retrieval": 1.0}
    assert record["difference_to_vanilla"] == {"focused": 0.0, "focused_retrieval": 0.5}
    assert record["longest"][0]["to_vanilla"] is None
    assert set(record["longest"][1]["to_vanilla"]) == {"difference", "low", "high", "p_value", "num_questions"}
    assert set(record["longest"][1]["score"]) == {"mean", "low", "high"}
    assert record["score"] == record["exact_match"]
    assert record["sources"] == [{"file": "mask", "values": {"top_k": 4}}]
    assert [line["benchmark"] for line in record["paper"]] == ["QuALITY", "Qasper"]
    for key, value in record.items():
        if not isinstance(value, list | str):
            assert isinstance(value, int) or all(isinstance(number, float) for number in value.values()), key
    json.dumps(record)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.integers(1, 8), st.integers(1, 6))
def test_ranges_hold_every_value_once_in_order(values: list[int], most: int, parts: int):
    found = ranges(values, most=most, parts=parts)
    assert all(sum(low <= value <= high for low, high in found) == 1 for value in values)
    assert found == sorted(found)
    assert {bound for part in found for bound in part} <= set(values)
    assert len(found) == len(set(values)) if len(set(values)) <= most else len(found) <= parts


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.integers(1, 6))
def test_a_range_holds_no_less_than_half_its_share(values: list[int], parts: int):
    found = ranges(values, most=1, parts=parts)
    for low, high in found if len(found) > 1 else []:
        assert sum(low <= value <= high for value in values) >= len(values) / (2 * parts)


def test_a_handful_of_the_longest_is_joined_to_the_range_below():
    values = [5, 6, 7, 8, 9] * 100 + [10] * 500 + [11] * 5 + [12] * 5
    assert ranges(values, most=6, parts=4)[-1] == Range(10, 12)


def test_no_values_have_no_ranges():
    assert ranges([], most=3, parts=3) == []
    assert ranges([5, 5], most=1, parts=3) == [Range(5, 5)]
