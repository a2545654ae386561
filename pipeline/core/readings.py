"""Distraction errors made readable: which ones, and where the answers stand in the documents."""

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.core import answers, summary

EXCERPT_CHARACTERS = 900  # of a document that is shown; longer ones are cut around the marked words
_ENDS = string.punctuation + string.whitespace

Row = Mapping[str, Any]


class Segment(NamedTuple):
    """A piece of text; `marked`: this is the answer looked for."""

    text: str
    marked: bool


@dataclass(frozen=True)
class Passage:
    """A document of the context."""

    position: int
    """In the context, from 1."""
    title: list[Segment]
    text: list[Segment]


class Place(NamedTuple):
    """One line of the context list."""

    position: int
    title: str
    role: str
    """gold | holds the given answer | empty"""


class Answer(NamedTuple):
    """What a method answered to the same example."""

    name: str
    text: str
    error: str


@dataclass(frozen=True)
class Reading:
    """One distraction error with all that is needed to judge it."""

    example_id: str
    method: str
    question: str
    answer_lead: str
    given: str
    right: list[str]
    gold: list[Passage]
    distractor: Passage | None
    context: list[Place]
    others: list[Answer]


def choose(predictions: Iterable[Row], *, num: int, longest: int) -> list[Row]:
    """Distraction errors on the full context, of contexts of `longest` documents or more.

    They are those of focused, spread evenly over its errors in the order of the examples; where it has too few, the
    other methods follow, latest first. The choice does not look at the texts.
    """
    errors: dict[str, list[Row]] = {}
    for row in predictions:
        if row["error"] == "distraction" and row["input"] == "full" and row["num_documents"] >= longest:
            errors.setdefault(row["method"], []).append(row)
    methods = sorted(errors, key=summary.method_order, reverse=True)
    chosen: list[Row] = []
    for method in sorted(methods, key=lambda name: name != "focused"):
        taken = {row["example_id"] for row in chosen}
        rows = [row for row in errors[method] if row["example_id"] not in taken]
        wanted = min(num - len(chosen), len(rows))
        chosen += [rows[place * len(rows) // wanted] for place in range(wanted)]
    return chosen


def reading(error: Row, example: Row, documents: Mapping[str, Row], answered: Iterable[Row]) -> Reading:
    """Put an error, its example, the documents of its context and every method's answer to it together."""
    position_of = {document_id: place for place, document_id in enumerate(example["document_ids"], start=1)}
    gold = [document_id for document_id in example["gold_document_ids"] if document_id in position_of]
    distractor = error["distractor_id"]

    def passage(document_id: str, wanted: Sequence[str]) -> Passage:
        evidence = [(span["start"], span["end"]) for span in example["evidence"] if span["document_id"] == document_id]
        document = documents[document_id]
        return Passage(
            position=position_of[document_id],
            title=_segments(document["title"], _places(document["title"], wanted)),
            text=_excerpt(_segments(document["text"], _places(document["text"], wanted) or sorted(evidence))),
        )

    roles = {**dict.fromkeys(gold, "gold"), distractor: "holds the given answer"}
    return Reading(
        example_id=error["example_id"],
        method=error["method"],
        question=example["question"],
        answer_lead=example["answer_lead"],
        given=error["prediction"],
        right=list(example["answers"]),
        gold=[passage(document_id, example["answers"]) for document_id in gold],
        distractor=passage(distractor, [error["prediction"]]) if distractor in position_of else None,
        context=[Place(place, documents[key]["title"], roles.get(key, "")) for key, place in position_of.items()],
        others=[
            Answer(summary.row_name(row["method"], row["input"]), row["prediction"], row["error"])
            for row in answered
            if (row["method"], row["input"]) != (error["method"], error["input"])
        ],
    )


def _places(text: str, wanted: Sequence[str]) -> list[tuple[int, int]]:
    """Where any of the answers stands, without overlaps, in the order of the text."""
    found = sorted(place for answer in wanted for place in answers.find(text, answer.rstrip(_ENDS)))
    apart: list[tuple[int, int]] = []
    for start, end in found:
        if not apart or start >= apart[-1][1]:
            apart.append((start, end))
    return apart


def _segments(text: str, places: Sequence[tuple[int, int]]) -> list[Segment]:
    segments, last = [], 0
    for start, end in places:
        segments += [Segment(text[last:start], False), Segment(text[start:end], True)]
        last = end
    return [segment for segment in [*segments, Segment(text[last:], False)] if segment.text]


def _excerpt(segments: list[Segment]) -> list[Segment]:
    """A long text cut to EXCERPT_CHARACTERS around its first marked words."""
    before = next((index for index, segment in enumerate(segments) if segment.marked), 0)
    start = sum(len(segment.text) for segment in segments[:before]) - EXCERPT_CHARACTERS // 3
    total = sum(len(segment.text) for segment in segments)
    start = max(0, min(start, total - EXCERPT_CHARACTERS))
    end = start + EXCERPT_CHARACTERS
    cut, place = [Segment("… ", False)] if start else [], 0
    for segment in segments:
        piece = segment.text[max(0, start - place) : max(0, end - place)]
        place += len(segment.text)
        if piece:
            cut.append(Segment(piece, segment.marked))
    return [*cut, Segment(" …", False)] if end < total else cut
