"""Answers to both views, compared literally."""

from typing import Any

import pytest

from pipeline.analysis import answers


def row(number: int, prediction: str, **more: Any) -> dict[str, Any]:
    return {
        "question_id": f"q{number}", "benchmark": "made", "prediction": prediction, "answers": ["Porto", "Oporto"],
        "options": [], "gold_option": -1, **more,
    }  # fmt: skip


def test_every_outcome_is_counted():
    full = [row(0, "Porto"), row(1, "the Porto"), row(2, "Lyon"), row(3, "Lyon"), row(4, "Lyon")]
    found = answers.compare(["Oporto", "Lyon", "Porto", "lyon.", "Turin"], full, 100)
    assert {name: of["mean"] for name, of in found["outcomes"].items()} == pytest.approx(
        {"both_right": 0.2, "only_full_right": 0.2, "only_masked_right": 0.2, "both_wrong": 0.4}
    )
    assert (found["answers_equal"], found["full_score"], found["masked_score"]) == pytest.approx((0.2, 0.4, 0.4))
    for name, interval in found["intervals"].items():
        assert interval["low"] <= interval["mean"] == found[name] <= interval["high"]


def test_an_option_is_right_when_it_is_named():
    choice = {"options": ["Porto", "Lyon"], "gold_option": 1, "answers": ["Lyon"]}
    found = answers.compare(["(B)", "A"], [row(0, "B", **choice), row(1, "B", **choice)], 100)
    assert found["outcomes"]["both_right"]["mean"] == found["outcomes"]["only_full_right"]["mean"] == 0.5
