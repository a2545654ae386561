"""Splits the questions of a benchmark, and defines what a reader of official files takes and yields."""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import takewhile
from typing import Any, NamedTuple

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.data import jsonl
from pipeline.data.jsonl import Lines, Parsed, Reject

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class OfficialFiles:
    """The official files of a benchmark and how their questions are split; every reader takes one."""

    lines: Mapping[str, Lines]
    """Lines or entries of the files of each split."""
    reject: Reject
    """Takes what is no record of the benchmark, or a question that nothing can be learnt from."""
    seed: int
    dev_fraction: float = 0.0
    """Share of train's groups that is held out as dev, in addition to the files of dev."""
    test_fraction: float = 0.0
    max_questions: int | None = None
    """Only the first questions of each split are taken; None: all."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Questions that are left out without being errors, by reason; complete when all examples have been taken."""

    def parse(self, record: type[Parsed]) -> Iterator[tuple[str, str, Parsed]]:
        """Yield (split, place, record) of every line, train first."""
        for split in SPLITS:
            for place, parsed in jsonl.parse(self.lines.get(split, ()), record, self.reject):
                yield split, place, parsed

    def held_out(self, names: Iterable[str]) -> dict[str, str]:
        """Assign train, dev or test to each name by the digest of seed and name, so that other names change little.

        The shares are rounded to whole names, at least one where the share is above 0; dev is filled first.
        """
        ordered = sorted(set(names), key=lambda name: hashlib.sha256(f"{self.seed}\n{name}".encode()).digest())
        num_dev, num_test = (
            max(1, round(share * len(ordered))) if share > 0.0 else 0
            for share in (self.dev_fraction, self.test_fraction)
        )
        return {
            name: "dev" if place < num_dev else "test" if place < num_dev + num_test else "train"
            for place, name in enumerate(ordered)
        }


class Group(NamedTuple):
    """A record as its reader understands it: documents, and the examples over them."""

    split: str
    """The split of its file."""
    place: str
    name: str
    """Records of one name stay together when a part of train is held out."""
    documents: list[Document]
    examples: list[Example]


Read = Callable[[OfficialFiles], Iterator[Group]]
"""A reader: yields all groups in the order of the files, train first, and the same ones each time it is called."""


def benchmark(read: Read, files: OfficialFiles) -> Benchmark:
    """Split the questions of a reader; documents without a question that is taken are left out.

    The files are read once for the split, once for the documents and once for the examples.

    Raises:
        DataError: a question stands twice, in one split or in two.
    """

    @cache
    def split_of() -> dict[str, str]:
        return files.held_out(group.name for group in takewhile(lambda group: group.split == "train", read(files)))

    def taken() -> Iterator[tuple[list[Document], Example]]:
        place_of: dict[str, str] = {}
        num_taken: Counter[str] = Counter()
        for group in read(files):
            split = split_of()[group.name] if group.split == "train" else group.split
            for asked in group.examples:
                jsonl.refuse_twice(place_of, group.place, f"question {asked.question_id!r}")
                if files.max_questions is None or num_taken[split] < files.max_questions:
                    num_taken[split] += 1
                    yield group.documents, replace(asked, split=split)

    return Benchmark(
        distinct(document for documents, _ in taken() for document in documents), (asked for _, asked in taken())
    )


def digest(*texts: str) -> str:
    """Digest texts into 16 hexadecimal digits, for an id."""
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]


def distinct(documents: Iterable[Document]) -> Iterator[Document]:
    """Yield the first document of each id."""
    seen: set[str] = set()
    for document in documents:
        if document.document_id not in seen:
            seen.add(document.document_id)
            yield document


def example(
    benchmark: str,
    split: str,
    question_id: str,
    question: str,
    answers: Sequence[str],
    document_ids: list[str],
    evidence: Sequence[Evidence] = (),
    **more: Any,
) -> Example:
    """Build the example of a question. Its gold documents are those that hold evidence.

    `more` are further fields of Example; `example_id` only where a question is asked over several contexts.
    """
    quoted = {found.document_id for found in evidence}
    gold = [name for name in document_ids if name in quoted]
    return Example(
        **{"example_id": question_id, "answer_lead": "", **more},
        question_id=question_id,
        benchmark=benchmark,
        split=split,
        question=question,
        answers=list(answers),
        document_ids=document_ids,
        gold_document_ids=gold,
        evidence=list(evidence),
        gold_position=document_ids.index(gold[0]) if gold else -1,
    )
