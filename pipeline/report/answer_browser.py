"""The page's examples to read: which are shown, what each method answered, and where the documents hold the answers."""

import string
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from pipeline.common.tables import Row
from pipeline.common.text import find_answer
from pipeline.report.summary import row_name
from pipeline.views import prompts

KINDS = ("correct", "distraction", "other")
EXCERPT_CHARACTERS = 900  # of a document that holds an answer; longer ones are cut around the marked words
FOLDED_CHARACTERS = 500  # of any other document
ALL_FOLDED_CHARACTERS = 400_000  # of all these together: the more documents, the less of each is shown
_ENDS = string.punctuation + string.whitespace

Span = tuple[int, int, str]
"""Start, end and mark of a piece of text."""


class Segment(NamedTuple):
    """A piece of text and its mark: right or wrong answer, or empty."""

    text: str
    mark: str


@dataclass(frozen=True)
class ShownDocument:
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
    """Rows of the main table whose wrong answer occurs here."""

    @property
    def open(self) -> bool:
        """Whether it holds an answer, so that it is not folded away."""
        return self.gold or bool(self.answered_by)


@dataclass(frozen=True)
class ShownAnswer:
    """The answer of one method with one input."""

    name: str
    """Name of the row of the main table."""
    method: str
    input: str
    text: str
    note: str
    """For a multiple-choice question the generated text, else empty."""
    kind: str


@dataclass(frozen=True)
class ShownExample:
    """One example with all that is needed to judge its answers."""

    example_id: str
    question: str
    options: list[tuple[str, bool]]
    """Of a multiple-choice question, with whether each is right; else empty."""
    answer_lead: str
    right: list[str]
    answers: list[ShownAnswer]
    context: list[ShownDocument]


def choose(predictions: pl.DataFrame, *, num: int, longest: int) -> list[str]:
    """Choose the ids of up to `num` examples with at least `longest` documents, in the order of the predictions.

    They are spread evenly over methods and kinds of answer on the full context: every pair of the two gives equally
    many, taken at equal steps from its examples, while it has enough. The choice does not depend on the texts.
    """
    rows = predictions.filter(pl.col("input") == "full", pl.col("num_documents") >= longest)
    pairs = rows.group_by("method", "error").agg("example_id").sort(pl.col("example_id").list.len(), "method", "error")
    order: list[str] = rows["example_id"].unique(maintain_order=True).to_list()
    chosen: set[str] = set()
    # Small pairs first: what they lack is spread over the larger ones, and in the end over all examples.
    pools = [*pairs["example_id"].to_list(), order]
    for number, ids in enumerate(pools):
        free = [example_id for example_id in ids if example_id not in chosen]
        wanted = min((num - len(chosen)) // max(1, len(pools) - 1 - number), len(free))
        chosen |= {free[index * len(free) // wanted] for index in range(wanted)}
    return [example_id for example_id in order if example_id in chosen]


def folded_characters(num_documents: int) -> int:
    """Number of characters of each folded document on a page that shows so many documents."""
    return min(FOLDED_CHARACTERS, ALL_FOLDED_CHARACTERS // max(1, num_documents))


def assemble(
    example: Row, documents: Mapping[str, Row], kept: Collection[str], predictions: Sequence[Row], folded: int
) -> ShownExample:
    """Put together an example, the documents of its context and every answer to it.

    Args:
        documents: document_id -> row, at least for the documents of the context.
        kept: ids of the chunks of the masked view, <document_id>#<index>.
        predictions: of this example, in the order in which they are shown.
        folded: number of characters shown of a document that holds no answer.
    """
    options, gold_option = list(example["options"]), example["gold_option"]
    right = [options[gold_option]] if options else list(example["answers"])
    kept_documents = {chunk_id.rpartition("#")[0] for chunk_id in kept}
    context = []
    for position, document_id in enumerate(example["document_ids"], start=1):
        document = documents[document_id]
        gold = document_id in example["gold_document_ids"]
        wrong = [row for row in predictions if row["distractor_id"] == document_id]
        answers = {"right": right if gold else [], "wrong": [row["prediction"] for row in wrong]}
        evidence = sorted(
            (span["start"], span["end"], "right") for span in example["evidence"] if span["document_id"] == document_id
        )
        segments = _segments(document["text"], _spans(document["text"], answers) or evidence)
        context.append(
            ShownDocument(
                position=position,
                title=_segments(document["title"], _spans(document["title"], answers)),
                text=_excerpt(segments, EXCERPT_CHARACTERS if gold or wrong else folded),
                gold=gold,
                kept=document_id in kept_documents,
                answered_by=[row_name(row["method"], row["input"]) for row in wrong],
            )
        )
    return ShownExample(
        example_id=example["example_id"],
        question=example["question"],
        options=[(_option(options, index), index == gold_option) for index in range(len(options))],
        answer_lead=example["answer_lead"],
        right=[_option(options, gold_option)] if options else right,
        answers=[_answer(row, options) for row in predictions],
        context=context,
    )


def _option(options: Sequence[str], index: int) -> str:
    return f"({prompts.LETTERS[index]}) {options[index]}"


def _answer(row: Row, options: Sequence[str]) -> ShownAnswer:
    text, note = row["prediction"], ""
    if options and row["likeliest_option"] >= 0:
        text, note = _option(options, row["likeliest_option"]), row["prediction"]
    return ShownAnswer(row_name(row["method"], row["input"]), row["method"], row["input"], text, note, row["error"])


def _spans(text: str, answers: Mapping[str, Iterable[str]]) -> list[Span]:
    """Find answers (mark -> texts) in the text, in order and without overlaps; a right one goes before a wrong one."""
    found = sorted(
        (*span, mark)
        for mark, texts in answers.items()
        for answer in dict.fromkeys(texts)
        for span in find_answer(text, answer.rstrip(_ENDS))
    )
    apart: list[Span] = []
    for start, end, mark in found:
        if not apart or start >= apart[-1][1]:
            apart.append((start, end, mark))
    return apart


def _segments(text: str, spans: Sequence[Span]) -> list[Segment]:
    segments, last = [], 0
    for start, end, mark in spans:
        segments += [Segment(text[last:start], ""), Segment(text[start:end], mark)]
        last = end
    return [segment for segment in [*segments, Segment(text[last:], "")] if segment.text]


def _excerpt(segments: list[Segment], length: int) -> list[Segment]:
    """Cut a long text to `length` characters around its first marked words."""
    before = next((index for index, segment in enumerate(segments) if segment.mark), 0)
    start = sum(len(segment.text) for segment in segments[:before]) - length // 3
    total = sum(len(segment.text) for segment in segments)
    start = max(0, min(start, total - length))
    end = start + length
    cut, offset = [Segment("… ", "")] if start else [], 0
    for segment in segments:
        piece = segment.text[max(0, start - offset) : max(0, end - offset)]
        offset += len(segment.text)
        if piece:
            cut.append(Segment(piece, segment.mark))
    return [*cut, Segment(" …", "")] if end < total else cut
