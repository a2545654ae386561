"""Answers to read: which examples are chosen, what is marked in them, how much of a document is shown."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.text import find_answer, has_answer
from pipeline.report import answer_browser
from pipeline.report.answer_browser import Segment
from tests.report.test_summary import answer, frame

DOCUMENTS = {
    "d1": {"document_id": "d1", "title": "Ada Holm", "text": "Ada Holm was born in Porto. She died in Lyon."},
    "d2": {"document_id": "d2", "title": "Ada Berg", "text": "Ada Berg was born in Vienna, and left vienna early."},
    "d3": {"document_id": "d3", "title": "", "text": "Nothing to see in Porto."},
}
EXAMPLE: dict[str, Any] = {
    "example_id": "q1", "question": "Where was Ada Holm born?", "answer_lead": "in", "answers": ["Porto", "Oporto"],
    "document_ids": ["d3", "d2", "d1"], "gold_document_ids": ["d1"], "options": [], "gold_option": -1,
    "evidence": [{"document_id": "d1", "start": 0, "end": 27}],
}  # fmt: skip
CHOICE = EXAMPLE | {
    "answer_lead": "", "answers": ["Porto"], "options": ["Porto", "Lyon"], "gold_option": 0, "gold_document_ids": [],
    "evidence": [],
}  # fmt: skip


def marked(segments: list[Segment]) -> list[tuple[str, str]]:
    return [(text, mark) for text, mark in segments if mark]


def error(prediction: str = "Vienna.", distractor: str = "d2", method: str = "focused", **more: Any) -> dict[str, Any]:
    return answer("q1", 0, method, length=3, **{"prediction": prediction, "distractor_id": distractor, **more})


def whole(segments: list[Segment]) -> str:
    return "".join(text for text, _ in segments)


def read(
    answered: list[dict[str, Any]], documents: dict[str, Any] = DOCUMENTS, kept: tuple[str, ...] = (), **changes: Any
) -> dict[str, Any]:
    return answer_browser.assemble(EXAMPLE | changes, documents, kept, answered, 500)


def test_every_document_of_the_context_stands_there_in_order_with_what_it_is():
    found = read([error()], kept=("d1#0", "d3#12"))
    assert [(place["position"], place["gold"], place["kept"], place["answered_by"]) for place in found["context"]] == [
        (1, False, True, []),
        (2, False, False, ["focused"]),
        (3, True, True, []),
    ]


def test_right_answers_are_marked_in_gold_documents_and_wrong_ones_where_they_stand():
    found = read([error()])
    assert [marked(place["text"]) for place in found["context"]] == [
        [],  # Porto stands here too, but the document is not known to answer the question
        [("Vienna", "wrong"), ("vienna", "wrong")],
        [("Porto", "right")],
    ]
    assert whole(found["context"][2]["text"]) == DOCUMENTS["d1"]["text"]


def test_an_answer_in_the_title_is_marked_there():
    found = read([error("Ada Berg")])
    assert marked(found["context"][1]["title"]) == marked(found["context"][1]["text"]) == [("Ada Berg", "wrong")]


def test_the_evidence_is_marked_where_the_right_answer_is_not_in_these_words():
    found = read([], answers=["Portugal"])
    assert marked(found["context"][2]["text"]) == [("Ada Holm was born in Porto.", "right")]


def test_pieces_of_evidence_that_overlap_do_not_repeat_the_text():
    evidence = [{"document_id": "d1", "start": start, "end": end} for start, end in ((0, 27), (9, 40))]
    found = read([], answers=["Portugal"], evidence=evidence)
    assert whole(found["context"][2]["text"]) == DOCUMENTS["d1"]["text"]
    assert marked(found["context"][2]["text"]) == [("Ada Holm was born in Porto.", "right")]


def test_answers_of_several_methods_in_one_document_are_all_named_and_marked():
    found = read([error(method="base"), error("born", method="vanilla"), error(method="focused", input="retrieval")])
    assert found["context"][1]["answered_by"] == ["base", "vanilla", "focused + retrieval"]
    assert [text for text, _ in marked(found["context"][1]["text"])] == ["born", "Vienna", "vienna"]


def test_every_answer_stands_with_its_kind():
    found = read([answer("q1", 1, "vanilla", prediction="Porto"), error(), answer("q1", 1, "focused", "retrieval")])
    assert [
        tuple(it[key] for key in ("name", "method", "input", "text", "note", "kind")) for it in found["answers"]
    ] == [
        ("vanilla", "vanilla", "full", "Porto", "", "correct"),
        ("focused", "focused", "full", "Vienna.", "", "distraction"),
        ("focused + retrieval", "focused", "retrieval", "x", "", "correct"),
    ]
    assert (found["right"], found["options"]) == (["Porto", "Oporto"], [])


def test_of_a_multiple_choice_the_likeliest_option_is_the_answer_and_what_was_generated_stands_beside_it():
    row = error("B, I think", "", error="other", likeliest_option=1, generated_option=1)
    found = answer_browser.assemble(CHOICE, DOCUMENTS, (), [row], 500)
    assert found["options"] == [("(A) Porto", True), ("(B) Lyon", False)]
    assert found["right"] == ["(A) Porto"]
    assert (found["answers"][0]["text"], found["answers"][0]["note"]) == ("(B) Lyon", "B, I think")
    assert not any(place["gold"] or place["answered_by"] for place in found["context"])


def test_without_gold_documents_and_masks_everything_is_folded():
    found = read([error(distractor="", error="other")], gold_document_ids=[], evidence=[])
    assert all(not (place["gold"] or place["answered_by"] or place["kept"]) for place in found["context"])
    assert not any(marked(place["text"]) for place in found["context"])


def test_a_distractor_out_of_the_context_is_left_out():
    assert not any(place["answered_by"] for place in read([error(distractor="d9")])["context"])


def test_a_long_document_is_cut_around_the_first_marked_words():
    text = "before " * 1000 + "Vienna" + " after" * 1000
    segments = read([error()], DOCUMENTS | {"d2": DOCUMENTS["d2"] | {"text": text}})["context"][1]["text"]
    assert marked(segments) == [("Vienna", "wrong")]
    assert (segments[0][0], segments[-1][0]) == ("… ", " …")
    assert len(whole(segments[1:-1])) == answer_browser.EXCERPT_CHARACTERS
    assert whole(segments[1:-1]) in text


@given(st.text(max_size=3000), st.text(alphabet="ab ", max_size=3), st.integers(1, 2000))
def test_segments_are_the_text_or_a_piece_of_it(text: str, prediction: str, folded: int):
    documents = DOCUMENTS | {"d2": DOCUMENTS["d2"] | {"text": text}, "d3": DOCUMENTS["d3"] | {"text": text}}
    found = answer_browser.assemble(EXAMPLE, documents, (), [error(prediction)], folded)
    for place, length in ((found["context"][1], answer_browser.EXCERPT_CHARACTERS), (found["context"][0], folded)):
        shown = whole(place["text"])
        assert shown == text if len(text) <= length else shown.removeprefix("… ").removesuffix(" …") in text


@given(st.integers(0, 100_000))
def test_folded_documents_together_stay_below_their_budget(num: int):
    each = answer_browser.folded_characters(num)
    assert 0 <= each <= answer_browser.FOLDED_CHARACTERS and each * num <= answer_browser.ALL_FOLDED_CHARACTERS


def test_examples_are_spread_over_methods_and_kinds():
    kinds = {"base": "distraction", "vanilla": "other", "focused": "correct"}
    rows = [
        answer(f"{first} {n}", 0, method, error=kinds[method] if method == first else "correct", length=8)
        for method in kinds
        for first in kinds
        for n in range(40)
    ]
    chosen = answer_browser.choose(frame(rows), num=15, longest=8)
    found = Counter(name.split()[0] for name in chosen)
    assert len(chosen) == 15 and found["base"] >= 3 and found["vanilla"] >= 3
    order = list(dict.fromkeys(row["example_id"] for row in rows))
    assert chosen == sorted(chosen, key=order.index)


def test_a_rare_kind_is_shown_whole():
    rows = [answer(f"q{n}", 1) for n in range(500)] + [answer(f"e{n}", 0) for n in range(3)]
    assert {"e0", "e1", "e2"} < set(answer_browser.choose(frame(rows), num=40, longest=1))


def test_only_the_longest_contexts_in_full_are_chosen_from():
    rows = [answer("short", 0, length=4), answer("retrieved", 0, "focused", "retrieval", length=8)]
    assert answer_browser.choose(frame([*rows, answer("q1", 0, length=8)]), num=40, longest=8) == ["q1"]
    assert answer_browser.choose(frame(rows), num=40, longest=8) == []


@given(st.lists(st.sampled_from(["correct", "distraction", "other"]), max_size=60), st.integers(1, 50))
def test_as_many_as_are_wanted_are_chosen_and_none_twice(kinds: list[str], num: int):
    rows = [
        answer(f"q{n}", 0, method, error=kind)
        for method in ("base", "focused")
        for n, kind in enumerate(kinds if method == "base" else reversed(kinds))
    ]
    chosen = answer_browser.choose(frame(rows), num=num, longest=1)
    assert len(chosen) == len(set(chosen)) == min(num, len(kinds))


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
    assert [text[start:end] for start, end in find_answer(text, wanted)] == places


@given(
    st.text(alphabet="aAb\u00e9e\u0301\u0323 .,\u2260\u0338=", max_size=12),
    st.text(alphabet="ab\u00e9\u2260 .", max_size=3),
)
def test_find_agrees_with_contains(text: str, wanted: str):
    places = find_answer(text, wanted)
    assert bool(places) == has_answer(text, wanted)
    assert all(0 <= start < end <= len(text) for start, end in places)
    assert places == sorted(places)
