"""Splits of questions and documents, and contexts made of documents."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from pipeline.common.tables import Benchmark, Document, Example
from pipeline.runtime.errors import DataError


def held_out(document_ids: Iterable[str], *, dev_fraction: float, test_fraction: float, seed: int) -> dict[str, str]:
    """train, dev or test for each document, by the digest of seed and id: what stands beside it changes little.

    The shares are rounded to whole documents, at least one where the share is above 0; dev is filled first.
    """
    ordered = sorted(set(document_ids), key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).digest())
    num_dev, num_test = (
        max(1, round(share * len(ordered))) if share > 0.0 else 0 for share in (dev_fraction, test_fraction)
    )
    return {
        name: "dev" if place < num_dev else "test" if place < num_dev + num_test else "train"
        for place, name in enumerate(ordered)
    }


class Question(NamedTuple):
    """A question as a reader finds it."""

    place: str
    unit: str
    """What is held out whole: questions of one unit stand in one split."""
    documents: list[Document]
    example: Example
    """Its split is set later."""


Read = Callable[[str], Iterator[Question]]
"""The questions in the files of a split, in order; the same each time."""


def benchmark(
    read: Read, *, dev_fraction: float, test_fraction: float, seed: int, max_questions: int | None
) -> Benchmark:
    """Each distinct document once, each question as one example; `max_questions` of each split, the first ones.

    Raises:
        DataError: a question id stands twice, in one split or in two.
    """
    questions = _Questions(read, dev_fraction, test_fraction, seed, max_questions)
    return Benchmark(_documents(questions), (example for _, example in questions))


class _Questions:
    """Every question as the documents of its context and an example; each iteration reads anew and gives the same."""

    def __init__(
        self, read: Read, dev_fraction: float, test_fraction: float, seed: int, max_questions: int | None
    ) -> None:
        self._read, self._max_questions = read, max_questions
        self._dev_fraction, self._test_fraction, self._seed = dev_fraction, test_fraction, seed

    def __iter__(self) -> Iterator[tuple[list[Document], Example]]:
        place_of: dict[str, str] = {}
        num_taken: Counter[str] = Counter()
        for name in ("train", "dev", "test"):
            for place, unit, documents, example in self._read(name):
                question_id = example.question_id
                if question_id in place_of:
                    raise DataError(
                        f"{place}: question {question_id!r} already stands in {place_of[question_id]}; keep one of them"
                    )
                place_of[question_id] = place
                split = self._held_out[unit] if name == "train" else name
                if self._max_questions is None or num_taken[split] < self._max_questions:
                    num_taken[split] += 1
                    yield documents, replace(example, split=split)

    @cached_property
    def _held_out(self) -> dict[str, str]:
        return held_out(
            (question.unit for question in self._read("train")),
            dev_fraction=self._dev_fraction,
            test_fraction=self._test_fraction,
            seed=self._seed,
        )


def _documents(questions: _Questions) -> Iterator[Document]:
    seen: set[str] = set()
    for documents, _ in questions:
        for document in documents:
            if document.document_id not in seen:
                seen.add(document.document_id)
                yield document
