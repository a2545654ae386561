"""Kinds of wrong answers, literally."""

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
    found = answers.shares(kinds, [f"q{index}" for index in range(len(kinds))], 20)
    assert found["num_examples"] == len(kinds)
    for name in answers.KINDS:
        assert found[name]["mean"] == pytest.approx(kinds.count(name) / len(kinds))
        assert 0 <= found[name]["low"] <= found[name]["high"] <= 1
    assert sum(found[name]["mean"] for name in answers.KINDS) == pytest.approx(1.0)
