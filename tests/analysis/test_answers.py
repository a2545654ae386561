"""Kinds of wrong answers, agreement of the views' answers, and bias by position: literally and by plain counting."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis import answers
from pipeline.evaluation import score

GOLD = "Ada Holm\nAda Holm was born in Porto and works as a cellist."
OTHERS = ["Ada Berg\nAda Berg was born in Lyon.", "Hugo Holm\nHugo Holm studied in New York."]


def row(prediction: str, **more: Any) -> dict[str, Any]:
    example = {"benchmark": "made", "answers": ["Porto"], "options": [], "gold_option": -1, "gold_position": 0}
    texts = dict(zip("bc", OTHERS, strict=True))
    return {**example, **score.score(prediction, example, texts, []), **more}


@pytest.mark.parametrize(
    ("prediction", "kind"),
    [
        ("Porto", "correct"),
        ("the porto.", "correct"),
        ("Lyon", "distraction"),
        ("New York.", "distraction"),
        ("Hugo Holm", "distraction"),
        ("cellist", "in_gold"),
        ("a cellist.", "in_gold"),
        ("Porto and works", "in_gold"),
        ("Ada Holm", "in_gold"),
        ("York New", "hallucinated"),  # its words, not in a row
        ("Lyo", "hallucinated"),  # whole words only
        ("Vienna", "hallucinated"),
        ("", "no_answer"),
        ("the", "no_answer"),
        (" . ", "no_answer"),
    ],
)
def test_each_kind(prediction: str, kind: str):
    assert answers.kind(row(prediction), [OTHERS[0], GOLD, OTHERS[1]]) == kind


def test_where_gold_is_unknown_an_answer_out_of_the_context_is_no_distraction():
    unknown = row("Lyon", error="other", gold_position=-1)
    assert answers.kind(unknown, [GOLD, *OTHERS]) == "in_context"
    assert answers.kind(unknown, []) == "hallucinated"


def test_of_a_multiple_choice_question_only_the_option_counts():
    assert answers.kind(row("Lyon", error="other", options=["Porto", "Lyon"]), OTHERS) == "wrong_option"
    assert answers.kind(row("Lyon", error="correct", options=["Porto", "Lyon"]), OTHERS) == "correct"


@given(st.lists(st.sampled_from(answers.KINDS), min_size=1, max_size=20))
def test_shares_are_counted_and_add_up_to_one(kinds: list[answers.Kind]):
    found = answers.kind_shares(kinds, [f"q{index}" for index in range(len(kinds))], 20)
    assert found["num_examples"] == len(kinds)
    for name in answers.KINDS:
        assert found[name]["mean"] == pytest.approx(kinds.count(name) / len(kinds))
        assert 0 <= found[name]["low"] <= found[name]["high"] <= 1
    assert sum(found[name]["mean"] for name in answers.KINDS) == pytest.approx(1.0)


def full_row(number: int, prediction: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{number}", "benchmark": "made", "prediction": prediction, "answers": ["Porto", "Oporto"],
        "options": [], "gold_option": -1, **more,
    }  # fmt: skip


def test_every_outcome_is_counted():
    full = [
        full_row(0, "Porto"),
        full_row(1, "the Porto"),
        full_row(2, "Lyon"),
        full_row(3, "Lyon"),
        full_row(4, "Lyon"),
    ]
    found = answers.compare(["Oporto", "Lyon", "Porto", "lyon.", "Turin"], full, 100)
    assert {name: of["mean"] for name, of in found["outcomes"].items()} == pytest.approx(
        {"both_right": 0.2, "only_full_right": 0.2, "only_masked_right": 0.2, "both_wrong": 0.4}
    )
    assert (found["answers_equal"], found["full_score"], found["masked_score"]) == pytest.approx((0.2, 0.4, 0.4))
    for name, interval in found["intervals"].items():
        assert interval["low"] <= interval["mean"] == found[name] <= interval["high"]


def test_an_option_is_right_when_it_is_named():
    choice = {"options": ["Porto", "Lyon"], "gold_option": 1, "answers": ["Lyon"]}
    found = answers.compare(["(B)", "A"], [full_row(0, "B", **choice), full_row(1, "B", **choice)], 100)
    assert found["outcomes"]["both_right"]["mean"] == found["outcomes"]["only_full_right"]["mean"] == 0.5


NAMES = [f"q{index}" for index in range(40)]


def test_a_score_that_falls_from_first_to_last_place():
    found = answers.by_position([0, 1, 2, 3, 4], [1.0, 0.75, 0.5, 0.25, 0.0], NAMES[:5], 5, resamples=100)
    assert found["slope"] == pytest.approx({"mean": -1.0, "low": -1.0, "high": -1.0})
    assert found["edge_slope"]["mean"] == pytest.approx(0.0)
    assert [part["mean"] for part in found["parts"]] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_lost_in_the_middle_has_no_slope_but_an_edge_slope():
    found = answers.by_position([0, 1, 2, 3, 4], [1.0, 0.5, 0.0, 0.5, 1.0], NAMES[:5], 5, resamples=100)
    assert found["slope"]["mean"] == pytest.approx(0.0)
    assert found["edge_slope"]["mean"] == pytest.approx(1.0)


@pytest.mark.parametrize(("positions", "num_documents"), [([-1, -1], 5), ([0, 0], 1), ([3, 3], 5)])
def test_where_there_are_no_two_places_there_is_no_slope(positions: list[int], num_documents: int):
    found = answers.by_position(positions, [1.0, 0.0], NAMES[:2], num_documents, resamples=100)
    assert found["slope"] is None and found["edge_slope"] is None
    json.dumps(found, allow_nan=False)


def test_two_places_as_far_from_the_middle_have_no_edge_slope():
    found = answers.by_position([0, 5, 0, 5], [1.0, 0.0, 0.5, 0.0], NAMES[:4], 6, resamples=100)
    assert found["slope"]["mean"] == pytest.approx(-0.75) and found["edge_slope"] is None


@given(st.integers(2, 30), st.data())
def test_every_known_place_is_in_one_part_and_parts_follow_each_other(num_documents: int, data: st.DataObject):
    positions = data.draw(st.lists(st.integers(-1, num_documents - 1), min_size=1, max_size=40))
    values = [float(position % 2) for position in positions]
    found = answers.by_position(positions, values, NAMES[: len(positions)], num_documents, resamples=10)
    known = [position for position in positions if position >= 0]
    assert found["num_examples"] == len(known) == sum(part["num_examples"] for part in found["parts"])
    for part in found["parts"]:
        own = [position % 2 for position in known if part["first_position"] <= position <= part["last_position"]]
        assert (len(own), sum(own) / len(own)) == (part["num_examples"], pytest.approx(part["mean"]))
    json.dumps(found, allow_nan=False)


def test_right_or_wrong_answers_will_do():
    found = answers.by_position(range(4), [0.0, 0.0, 1.0, 1.0], NAMES[:4], 4, resamples=100)
    assert found["num_documents"] == found["num_examples"] == 4
    assert found["slope"]["mean"] == pytest.approx(1.2)
