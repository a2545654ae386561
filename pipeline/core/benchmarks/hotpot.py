"""HotpotQA, distractor setting: two paragraphs to combine among ten (Yang et al. 2018, arXiv 1809.09600).

The official files list a question's paragraphs in an order that may tell the gold ones (some copies put them first), so
every context is shuffled by seed, question and paragraph. A supporting fact names a paragraph by its title and one of
its sentences by number; the official files name sentences that are not there, and then all of the paragraph is the
evidence. Where two paragraphs of a context share the title, both are gold.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from pipeline.core.benchmarks import lines, splits
from pipeline.core.benchmarks.lines import Line, Lines, Reject, Some, Text
from pipeline.core.documents import Benchmark, Document, Evidence, Example
from pipeline.errors import DataError

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
    questions = _Questions(files, reject, dev_fraction, test_fraction, seed, max_questions)
    return Benchmark(_documents(questions), (example for _, example in questions))


class _Questions:
    """Every question as the documents of its context and an example; each iteration reads anew and gives the same."""

    def __init__(
        self,
        files: Mapping[str, Lines],
        reject: Reject,
        dev_fraction: float,
        test_fraction: float,
        seed: int,
        max_questions: int | None,
    ) -> None:
        self._files, self._reject = files, reject
        self._dev_fraction, self._test_fraction, self._seed = dev_fraction, test_fraction, seed
        self._max_questions = max_questions

    def __iter__(self) -> Iterator[tuple[list[Document], Example]]:
        place_of: dict[str, str] = {}
        num_taken: Counter[str] = Counter()
        for name in ("train", "dev", "test"):
            for place, record, paragraphs in self._parsed(name):
                if record.id in place_of:
                    raise DataError(
                        f"{place}: question {record.id!r} already stands in {place_of[record.id]}; keep one of them"
                    )
                place_of[record.id] = place
                split = self._held_out[record.id] if name == "train" else name
                if self._max_questions is None or num_taken[split] < self._max_questions:
                    num_taken[split] += 1
                    context = shuffled(paragraphs, record.id, self._seed)
                    yield [paragraph.document for paragraph in context], _example(record, context, split)

    @cached_property
    def _held_out(self) -> dict[str, str]:
        names = [record.id for _, record, _ in self._parsed("train")]
        return splits.held_out(
            names, dev_fraction=self._dev_fraction, test_fraction=self._test_fraction, seed=self._seed
        )

    def _parsed(self, name: str) -> Iterator[tuple[str, Record, list[Paragraph]]]:
        for place, record in lines.parse(_objects(self._files.get(name, ())), Record, self._reject):
            paragraphs = list(_paragraphs(record))
            if paragraphs:
                yield place, record, paragraphs
            else:
                self._reject(place, "context holds no paragraph with text")


def shuffled(paragraphs: list[Paragraph], question_id: str, seed: int) -> list[Paragraph]:
    """In an order that depends on seed, question and the paragraphs themselves, not on the order they came in."""

    def drawn(paragraph: Paragraph) -> bytes:
        return hashlib.sha256(f"{seed}\n{question_id}\n{paragraph.document.document_id}".encode()).digest()

    return sorted(paragraphs, key=drawn)


def _documents(questions: _Questions) -> Iterator[Document]:
    seen: set[str] = set()
    for documents, _ in questions:
        for document in documents:
            if document.document_id not in seen:
                seen.add(document.document_id)
                yield document


def _objects(entries: Lines) -> Iterator[Line]:
    for place, entry in entries:
        # Keys that open with an underscore pass for notes of the user's own.
        yield place, {**entry, "id": entry["_id"]} if isinstance(entry, dict) and "_id" in entry else entry


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


def _example(record: Record, context: list[Paragraph], split: str) -> Example:
    numbers_of: dict[str, set[int]] = {}
    for title, number in record.supporting_facts:
        numbers_of.setdefault(title, set()).add(number)
    gold = [place for place, paragraph in enumerate(context) if paragraph.document.title in numbers_of]
    return Example(
        example_id=record.id,
        question_id=record.id,
        benchmark="hotpot",
        split=split,
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
