"""Errors to read: which are chosen, what is marked in them."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import answers, readings
from tests.core.test_summary import answer

DOCUMENTS = {
    "d1": {"document_id": "d1", "title": "Ada Holm", "text": "Ada Holm was born in Porto. She died in Lyon."},
    "d2": {"document_id": "d2", "title": "Ada Berg", "text": "Ada Berg was born in Vienna, and left vienna early."},
    "d3": {"document_id": "d3", "title": "", "text": "Nothing to see."},
}
EXAMPLE: dict[str, Any] = {
    "example_id": "q1", "question": "Where was Ada Holm born?", "answer_lead": "in", "answers": ["Porto", "Oporto"],
    "document_ids": ["d3", "d2", "d1"], "gold_document_ids": ["d1"],
    "evidence": [{"document_id": "d1", "start": 0, "end": 27}],
}  # fmt: skip


def marked(segments: list[readings.Segment]) -> list[str]:
    return [segment.text for segment in segments if segment.marked]


def error(prediction: str = "Vienna.", distractor: str = "d2", **more: Any) -> dict[str, Any]:
    return answer("q1", 0, "focused", length=3, **{"prediction": prediction, "distractor_id": distractor, **more})


def test_both_answers_are_marked_where_they_stand():
    found = readings.reading(error(), EXAMPLE, DOCUMENTS, [])
    assert found.distractor is not None
    assert (found.distractor.position, marked(found.distractor.text)) == (2, ["Vienna", "vienna"])
    assert [(passage.position, marked(passage.text)) for passage in found.gold] == [(3, ["Porto"])]
    assert "".join(segment.text for segment in found.gold[0].text) == DOCUMENTS["d1"]["text"]
    assert [(place.position, place.role) for place in found.context] == [
        (1, ""), (2, "holds the given answer"), (3, "gold"),
    ]  # fmt: skip


def test_an_answer_in_the_title_is_marked_there():
    found = readings.reading(error("Ada Berg"), EXAMPLE, DOCUMENTS, [])
    assert found.distractor is not None
    assert marked(found.distractor.title) == ["Ada Berg"]
    assert marked(found.distractor.text) == ["Ada Berg"]


def test_the_evidence_is_marked_where_the_right_answer_is_not_in_these_words():
    found = readings.reading(error(), {**EXAMPLE, "answers": ["Portugal"]}, DOCUMENTS, [])
    assert marked(found.gold[0].text) == ["Ada Holm was born in Porto."]


def test_the_other_methods_answers_stand_beside_it():
    answered = [error(), answer("q1", 1, "focused", "retrieval"), answer("q1", 1, "vanilla", prediction="Porto")]
    found = readings.reading(error(), EXAMPLE, DOCUMENTS, answered)
    assert found.others == [
        readings.Answer("focused + retrieval", "x", "correct"),
        readings.Answer("vanilla", "Porto", "correct"),
    ]


def test_a_distractor_out_of_the_context_is_left_out():
    assert readings.reading(error(distractor=""), EXAMPLE, DOCUMENTS, []).distractor is None


def test_a_long_document_is_cut_around_the_first_marked_words():
    text = "before " * 1000 + "Vienna" + " after" * 1000
    found = readings.reading(error(), EXAMPLE, {**DOCUMENTS, "d2": {**DOCUMENTS["d2"], "text": text}}, [])
    assert found.distractor is not None
    segments = found.distractor.text
    assert marked(segments) == ["Vienna"]
    assert (segments[0].text, segments[-1].text) == ("… ", " …")
    assert sum(len(segment.text) for segment in segments[1:-1]) == readings.EXCERPT_CHARACTERS
    assert "".join(segment.text for segment in segments[1:-1]) in text


@given(st.text(max_size=3000), st.text(alphabet="ab ", max_size=3))
def test_segments_are_the_text_or_a_piece_of_it(text: str, prediction: str):
    documents = {**DOCUMENTS, "d2": {**DOCUMENTS["d2"], "text": text}}
    found = readings.reading(error(prediction), EXAMPLE, documents, [])
    assert found.distractor is not None
    shown = "".join(segment.text for segment in found.distractor.text)
    whole = len(text) <= readings.EXCERPT_CHARACTERS
    assert shown == text if whole else shown.removeprefix("… ").removesuffix(" …") in text


def test_errors_are_chosen_evenly_from_focused_at_the_longest_context():
    rows = [answer(f"q{n}", 0, method, length=8) for method in ("base", "focused", "vanilla") for n in range(40)]
    rows += [answer("short", 0, "focused", length=4), answer("q1", 0, "focused", "retrieval", length=8)]
    chosen = readings.choose(rows, num=10, longest=8)
    assert [row["example_id"] for row in chosen] == [f"q{n}" for n in range(0, 40, 4)]
    assert {(row["method"], row["input"]) for row in chosen} == {("focused", "full")}


def test_other_methods_fill_up_with_other_examples_and_wrong_answers_elsewhere_do_not():
    rows = [answer(f"q{n}", 0, "focused") for n in range(2)]
    rows += [answer(f"q{n}", 0, "vanilla") for n in range(4)] + [answer(f"q{n}", 0, "base") for n in range(9)]
    rows += [answer("q9", 0, "focused", error="other"), answer("q8", 1, "focused")]
    chosen = readings.choose(rows, num=6, longest=1)
    assert [(row["method"], row["example_id"]) for row in chosen] == [
        ("focused", "q0"), ("focused", "q1"), ("vanilla", "q2"), ("vanilla", "q3"), ("base", "q4"), ("base", "q6"),
    ]  # fmt: skip


def test_fewer_errors_than_wanted_are_all_shown():
    assert readings.choose([answer("q1", 0)], num=10, longest=1) == [answer("q1", 0)]
    assert readings.choose([answer("q1", 1)], num=10, longest=1) == []


@pytest.mark.parametrize(
    ("text", "wanted", "places"),
    [
        ("In Rome and ROME's Roman rome.", "rome", ["Rome", "ROME", "rome"]),
        ("Cafe\u0301 or Caf\u00e9", "caf\u00e9", ["Cafe\u0301", "Caf\u00e9"]),
        ("in New  \n York, new-york", "new york", ["New  \n York"]),
        ("a a a", "a a", ["a a"]),
        ("anything", " ", []),
        ("\u1e9b\u0323 \u2260", "\u2260", ["\u2260"]),
    ],
)
def test_an_answer_is_found_by_whole_words_in_any_case_and_any_composition(text: str, wanted: str, places: list[str]):
    assert [text[start:end] for start, end in answers.find(text, wanted)] == places


@given(
    st.text(alphabet="aAb\u00e9e\u0301\u0323 .,\u2260\u0338=", max_size=12),
    st.text(alphabet="ab\u00e9\u2260 .", max_size=3),
)
def test_find_agrees_with_contains(text: str, wanted: str):
    places = answers.find(text, wanted)
    assert bool(places) == answers.contains(text, wanted)
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert places == sorted(places)
