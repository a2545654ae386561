"""Answers made readable: which examples, what each method answered, and where the answers stand in the documents."""

import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from pipeline.common.text import find_answer
from pipeline.report import summary
from pipeline.views import prompts

KINDS = ("correct", "distraction", "other")
EXCERPT_CHARACTERS = 900  # of a document that holds an answer; longer ones are cut around the marked words
FOLDED_CHARACTERS = 500  # of any other document
ALL_FOLDED_CHARACTERS = 400_000  # of all of them on the page: with many documents each shows less
_ENDS = string.punctuation + string.whitespace

Row = Mapping[str, Any]


class Segment(NamedTuple):
    """A piece of text and whose answer it is: right, wrong, or neither (empty)."""

    text: str
    mark: str


@dataclass(frozen=True)
class Place:
    """A document of the context."""

    position: int
    """In the context, from 1."""
    title: list[Segment]
    text: list[Segment]
    """An excerpt, where the document is long."""
    gold: bool
    kept: bool
    """At least one of its chunks is kept in the masked view."""
    answered_by: list[str]
    """Rows of the main table whose wrong answer stands here."""

    @property
    def open(self) -> bool:
        """It bears on an answer, so it is not folded away."""
        return self.gold or bool(self.answered_by)


@dataclass(frozen=True)
class Answer:
    """What one method with one input answered."""

    name: str
    """As a row of the main table."""
    method: str
    input: str
    text: str
    note: str
    """Of a multiple-choice question: what was generated; else empty."""
    kind: str


@dataclass(frozen=True)
class Reading:
    """One example with all that is needed to judge its answers."""

    example_id: str
    question: str
    options: list[tuple[str, bool]]
    """Of a multiple-choice question, with whether each is right; else empty."""
    answer_lead: str
    right: list[str]
    answers: list[Answer]
    context: list[Place]


def choose(predictions: Iterable[Row], *, num: int, longest: int) -> list[str]:
    """Ids of `num` examples or fewer with `longest` documents or more, in the order of the predictions.

    They are spread over methods and kinds of answer on the full context: each pair of the two gives equally many, at
    equal steps from its list, while it has them. The choice does not look at the texts.
    """
    cells: dict[tuple[str, str], list[str]] = {}
    order: dict[str, None] = {}
    for row in predictions:
        if row["input"] == "full" and row["num_documents"] >= longest:
            order[row["example_id"]] = None
            cells.setdefault((row["method"], row["error"]), []).append(row["example_id"])
    chosen: set[str] = set()
    # Small cells first: what they cannot give is spread over the larger ones.
    waiting = sorted(cells.items(), key=lambda item: (len(item[1]), item[0]))
    for number, (_, ids) in enumerate(waiting):
        free = [example_id for example_id in ids if example_id not in chosen]
        wanted = min((num - len(chosen)) // (len(waiting) - number), len(free))
        chosen |= {free[place * len(free) // wanted] for place in range(wanted)}
    rest = [example_id for example_id in order if example_id not in chosen]
    wanted = min(num - len(chosen), len(rest))
    chosen |= {rest[place * len(rest) // wanted] for place in range(wanted)}
    return [example_id for example_id in order if example_id in chosen]


def folded_characters(num_documents: int) -> int:
    """Characters of each folded document on a page that shows so many."""
    return min(FOLDED_CHARACTERS, ALL_FOLDED_CHARACTERS // max(1, num_documents))


def reading(
    example: Row, documents: Mapping[str, Row], kept: Collection[str], answered: Iterable[Row], folded: int
) -> Reading:
    """Put an example, the documents of its context and every answer to it together.

    Args:
        documents: by id, those of the context at least.
        kept: ids of the chunks of the masked view, <document_id>#<index>.
        answered: predictions of this example, in the order in which they are to stand.
        folded: characters of a document that bears on no answer.
    """
    rows = list(answered)
    options = list(example["options"])
    right = [options[example["gold_option"]]] if options else list(example["answers"])
    kept_documents = {chunk_id.rpartition("#")[0] for chunk_id in kept}
    context = []
    for position, document_id in enumerate(example["document_ids"], start=1):
        wrong = [row for row in rows if row["distractor_id"] == document_id]
        gold = document_id in example["gold_document_ids"]
        document = documents[document_id]
        evidence = [(span["start"], span["end"]) for span in example["evidence"] if span["document_id"] == document_id]
        length = EXCERPT_CHARACTERS if gold or wrong else folded
        given = [row["prediction"] for row in wrong]
        context.append(
            Place(
                position=position,
                title=_segments(document["title"], _places(document["title"], right if gold else [], given)),
                text=_excerpt(
                    _segments(
                        document["text"],
                        _places(document["text"], right if gold else [], given)
                        or [(start, end, "right") for start, end in sorted(evidence)],
                    ),
                    length,
                ),
                gold=gold,
                kept=document_id in kept_documents,
                answered_by=[summary.row_name(row["method"], row["input"]) for row in wrong],
            )
        )
    return Reading(
        example_id=example["example_id"],
        question=example["question"],
        options=[(_option(options, place), place == example["gold_option"]) for place in range(len(options))],
        answer_lead=example["answer_lead"],
        right=[_option(options, example["gold_option"])] if options else right,
        answers=[_answer(row, options) for row in rows],
        context=context,
    )


def _option(options: Sequence[str], place: int) -> str:
    return f"({prompts.LETTERS[place]}) {options[place]}"


def _answer(row: Row, options: Sequence[str]) -> Answer:
    text, note = row["prediction"], ""
    if options and row["likeliest_option"] >= 0:
        text, note = _option(options, row["likeliest_option"]), row["prediction"]
    name = summary.row_name(row["method"], row["input"])
    return Answer(name, row["method"], row["input"], text, note, row["error"])


def _places(text: str, right: Sequence[str], wrong: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where any of the answers stands, without overlaps, in the order of the text; a right one before a wrong one."""
    found = sorted(
        (*place, mark)
        for mark, wanted in (("right", right), ("wrong", wrong))
        for answer in dict.fromkeys(wanted)
        for place in find_answer(text, answer.rstrip(_ENDS))
    )
    apart: list[tuple[int, int, str]] = []
    for start, end, mark in found:
        if not apart or start >= apart[-1][1]:
            apart.append((start, end, mark))
    return apart


def _segments(text: str, places: Sequence[tuple[int, int, str]]) -> list[Segment]:
    segments, last = [], 0
    for start, end, mark in places:
        segments += [Segment(text[last:start], ""), Segment(text[start:end], mark)]
        last = end
    return [segment for segment in [*segments, Segment(text[last:], "")] if segment.text]


def _excerpt(segments: list[Segment], length: int) -> list[Segment]:
    """A long text cut to `length` characters around its first marked words."""
    before = next((index for index, segment in enumerate(segments) if segment.mark), 0)
    start = sum(len(segment.text) for segment in segments[:before]) - length // 3
    total = sum(len(segment.text) for segment in segments)
    start = max(0, min(start, total - length))
    end = start + length
    cut, place = [Segment("… ", "")] if start else [], 0
    for segment in segments:
        piece = segment.text[max(0, start - place) : max(0, end - place)]
        place += len(segment.text)
        if piece:
            cut.append(Segment(piece, segment.mark))
    return [*cut, Segment(" …", "")] if end < total else cut
