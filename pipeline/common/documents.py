"""The shapes every benchmark is brought into: documents, and questions about contexts made of documents."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
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
    """References; the first one is trained on. Empty in split `unlabelled` alone."""
    document_ids: list[str]
    gold_document_ids: list[str]
    evidence: list[Evidence]
    gold_position: int
    """Place of the first gold document in the context, from 0; -1: unknown."""
    answer_types: list[str] = field(default_factory=list)
    """Of each reference, where the benchmark knows types (Qasper); else empty."""
    options: list[str] = field(default_factory=list)
    """Of a multiple-choice question, in the order they are shown; else empty."""
    gold_option: int = -1
    """Place of the right option, from 0; -1: no multiple choice."""
    subset: str = ""
    """A part of the benchmark that is also reported on its own (QuALITY: hard, easy); empty: none."""


class Benchmark(NamedTuple):
    """What `prepare` writes; both parts may be generators, so that size is not bounded by memory."""

    documents: Iterable[Document]
    examples: Iterable[Example]


def gold_flags(spans: Iterable[tuple[str, int, int]], evidence: list[Evidence]) -> Iterator[bool]:
    """For each chunk (document_id, start, end): does it share at least half of itself, or half of a piece of evidence?

    A chunk that holds the last word of the evidence does not hold the evidence. Evidence that lies in the chunks of its
    document always has a gold chunk: the one that holds most of it, or one that lies inside it.
    """
    for document_id, start, end in spans:
        yield any(
            document_id == found.document_id
            and 2 * (min(end, found.end) - max(start, found.start)) >= min(end - start, found.end - found.start)
            for found in evidence
        )


_SUBSET = "name-sharing rate "


def subset_of(name_sharing_rate: float) -> str:
    """`Example.subset` of the difficulty surface."""
    return f"{_SUBSET}{name_sharing_rate:g}"


def name_sharing_rate_of(subset: str) -> float:
    """What `subset_of` was made of."""
    return float(subset.removeprefix(_SUBSET))
