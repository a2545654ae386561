"""The shapes every benchmark is brought into: documents, and questions about contexts made of documents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Document:
    """A text with a title (empty: none)."""

    document_id: str
    title: str
    text: str
    whole: bool = False
    """Never cut: a passage of a context of many documents stays one chunk, whatever its length."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Characters [start, end) of a document's text that hold the answer."""

    document_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Example:
    """A question asked over one context."""

    example_id: str
    question_id: str
    """The same question in several contexts has one question_id: the unit of resampling."""
    benchmark: str
    split: str
    question: str
    answer_lead: str
    """Words that open the answer and belong to the prompt; may be empty."""
    answers: list[str]
    """References; the first one is trained on."""
    document_ids: list[str]
    gold_document_ids: list[str]
    evidence: list[Evidence]
    gold_position: int
    """Place of the first gold document in the context, from 0; -1: unknown."""


class Benchmark(NamedTuple):
    """What `prepare` writes; both parts may be generators, so that size is not bounded by memory."""

    documents: Iterable[Document]
    examples: Iterable[Example]


def gold_flags(spans: Iterable[tuple[str, int, int]], evidence: list[Evidence]) -> Iterator[bool]:
    """For each chunk (document_id, start, end): does it overlap the evidence by at least one character?"""
    for document_id, start, end in spans:
        yield any(document_id == found.document_id and start < found.end and found.start < end for found in evidence)
