"""Positional bias: slopes and parts, literally and against plain counting."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis import answers

NAMES = [f"q{index}" for index in range(40)]


def test_a_score_that_falls_from_first_to_last_place():
    found = answers.along([0, 1, 2, 3, 4], [1.0, 0.75, 0.5, 0.25, 0.0], NAMES[:5], 5, resamples=100)
    assert found["slope"] == pytest.approx({"mean": -1.0, "low": -1.0, "high": -1.0})
    assert found["edge_slope"]["mean"] == pytest.approx(0.0)
    assert [part["mean"] for part in found["parts"]] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_lost_in_the_middle_has_no_slope_but_an_edge_slope():
    found = answers.along([0, 1, 2, 3, 4], [1.0, 0.5, 0.0, 0.5, 1.0], NAMES[:5], 5, resamples=100)
    assert found["slope"]["mean"] == pytest.approx(0.0)
    assert found["edge_slope"]["mean"] == pytest.approx(1.0)


@pytest.mark.parametrize(("positions", "num_documents"), [([-1, -1], 5), ([0, 0], 1), ([3, 3], 5)])
def test_where_there_are_no_two_places_there_is_no_slope(positions: list[int], num_documents: int):
    found = answers.along(positions, [1.0, 0.0], NAMES[:2], num_documents, resamples=100)
    assert found["slope"] is None and found["edge_slope"] is None
    json.dumps(found, allow_nan=False)


def test_two_places_as_far_from_the_middle_have_no_edge_slope():
    found = answers.along([0, 5, 0, 5], [1.0, 0.0, 0.5, 0.0], NAMES[:4], 6, resamples=100)
    assert found["slope"]["mean"] == pytest.approx(-0.75) and found["edge_slope"] is None


@given(st.integers(2, 30), st.data())
def test_every_known_place_is_in_one_part_and_parts_follow_each_other(num_documents: int, data: st.DataObject):
    positions = data.draw(st.lists(st.integers(-1, num_documents - 1), min_size=1, max_size=40))
    values = [float(position % 2) for position in positions]
    found = answers.along(positions, values, NAMES[: len(positions)], num_documents, resamples=10)
    known = [position for position in positions if position >= 0]
    assert found["num_examples"] == len(known) == sum(part["num_examples"] for part in found["parts"])
    for part in found["parts"]:
        own = [position % 2 for position in known if part["first_position"] <= position <= part["last_position"]]
        assert (len(own), sum(own) / len(own)) == (part["num_examples"], pytest.approx(part["mean"]))
    json.dumps(found, allow_nan=False)


def test_predictions_of_any_method_will_do():
    rows = [
        {"gold_position": place, "score": float(place > 1), "question_id": f"q{place}", "num_documents": 4}
        for place in range(4)
    ]
    found = answers.of_scores(rows, 100)
    assert found["num_documents"] == found["num_examples"] == 4
    assert found["slope"]["mean"] == pytest.approx(1.2)
