"""HotpotQA, distractor setting: two paragraphs to combine among ten (Yang et al. 2018, arXiv 1809.09600).

The official files list a question's paragraphs in an order that may tell the gold ones (some copies put them first), so
every context is shuffled by seed, question and paragraph. A supporting fact names a paragraph by its title and one of
its sentences by number; the official files name sentences that are not there, and then all of the paragraph is the
evidence. Where two paragraphs of a context share the title, both are gold.
"""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.data import jsonl, splits
from pipeline.data.jsonl import Lines, Reject, Some, Text
from pipeline.data.splits import Question

# JSON has lists only; the items stay strict.
Fact = Annotated[tuple[str, int], Field(strict=False)]
Titled = Annotated[tuple[str, list[str]], Field(strict=False)]


class Record(BaseModel):
    """An entry of a file, its `_id` as `id`."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: Text
    question: Text
    answer: Text
    supporting_facts: list[Fact]
    context: Some[Titled]


class Paragraph(NamedTuple):
    """A paragraph with text."""

    document: Document
    sentences: list[str]

    def evidence(self, numbers: set[int]) -> list[Evidence]:
        """The spans of these sentences, in order; if none of them is there, all of the paragraph."""
        name, text = self.document.document_id, self.document.text
        found, end = [], 0
        for number, sentence in enumerate(self.sentences):
            start, end = end, end + len(sentence)
            if number in numbers and sentence.strip():
                found.append(Evidence(name, start, end))
        return found or [Evidence(name, 0, len(text))]


def benchmark(
    files: Mapping[str, Lines],
    reject: Reject,
    *,
    dev_fraction: float,
    test_fraction: float,
    seed: int,
    max_questions: int | None,
) -> Benchmark:
    """Each distinct paragraph as one document, each question as one example; train is held out by question ids.

    `files` gives the records of each split. What is no record with an answer and a context goes to `reject`.

    Raises:
        DataError: a question id stands twice, in one split or in two.
    """

    def read(split: str) -> Iterator[Question]:
        for place, record in jsonl.parse(jsonl.with_id(files.get(split, ())), Record, reject):
            context = shuffled(list(_paragraphs(record)), record.id, seed)
            if context:
                documents = [paragraph.document for paragraph in context]
                yield Question(place, record.id, documents, _example(record, context))
            else:
                reject(place, "context holds no paragraph with text")

    return splits.benchmark(
        read, dev_fraction=dev_fraction, test_fraction=test_fraction, seed=seed, max_questions=max_questions
    )


def shuffled(paragraphs: list[Paragraph], question_id: str, seed: int) -> list[Paragraph]:
    """In an order that depends on seed, question and the paragraphs themselves, not on the order they came in."""

    def drawn(paragraph: Paragraph) -> bytes:
        return hashlib.sha256(f"{seed}\n{question_id}\n{paragraph.document.document_id}".encode()).digest()

    return sorted(paragraphs, key=drawn)


def _paragraphs(record: Record) -> Iterator[Paragraph]:
    """The paragraphs of the context that have text, each once."""
    seen = set()
    for title, sentences in record.context:
        text = "".join(sentences)
        digest = hashlib.sha256("\0".join((title, text)).encode()).hexdigest()
        name = f"hotpot-paragraph-{digest[:16]}"
        if text.strip() and name not in seen:
            seen.add(name)
            yield Paragraph(Document(name, title, text, whole=True), sentences)


def _example(record: Record, context: list[Paragraph]) -> Example:
    numbers_of: dict[str, set[int]] = {}
    for title, number in record.supporting_facts:
        numbers_of.setdefault(title, set()).add(number)
    gold = [place for place, paragraph in enumerate(context) if paragraph.document.title in numbers_of]
    return Example(
        example_id=record.id,
        question_id=record.id,
        benchmark="hotpot",
        split="",
        question=record.question,
        answer_lead="",
        answers=[record.answer],
        document_ids=[paragraph.document.document_id for paragraph in context],
        gold_document_ids=[context[place].document.document_id for place in gold],
        evidence=[
            found for place in gold for found in context[place].evidence(numbers_of[context[place].document.title])
        ],
        gold_position=gold[0] if gold else -1,
    )
