"""LongBench's question answering, JSONL of THUDM/LongBench (Bai et al. 2023, arXiv 2308.14508).

The multi-passage tasks (hotpotqa, 2wikimqa, musique) join their passages in one `context`, each below a line
"Passage <n>:"; those become the documents, in that order, titled by their first line. Any other context is one
document. Which passages hold the answer is not told. The name of the task is the example's subset.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping

from pydantic import BaseModel, ConfigDict

from pipeline.common.tables import Benchmark, Document, Example
from pipeline.data import jsonl, splits
from pipeline.data.jsonl import Lines, Reject, Some, Text
from pipeline.data.splits import Question

TITLE_CHARACTERS = 100  # a first line up to this long is the title; the longest seen in the data has 67
_HEADER = re.compile(r"^Passage [0-9]+:\n", re.MULTILINE)


class Record(BaseModel):
    """A line of a file, its `_id` as `id`."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    id: Text
    dataset: str = ""
    input: Text
    context: Text
    answers: Some[Text]


def benchmark(
    files: Mapping[str, Lines],
    reject: Reject,
    *,
    dev_fraction: float,
    test_fraction: float,
    seed: int,
    max_questions: int | None,
) -> Benchmark:
    """Each distinct passage as one document, each question as one example; train is held out by whole contexts.

    `files` gives the records of each split. A record that is none, and a context that `passages` does not split, go to
    `reject`.

    Raises:
        DataError: a question id stands twice, in one split or in two.
    """

    def read(split: str) -> Iterator[Question]:
        for place, record in jsonl.parse(jsonl.with_id(files.get(split, ())), Record, reject):
            # A passage that is empty, or there twice, would be a document without text, or twice in a context.
            documents = {found.document_id: found for found in passages(record.context) if found.text.strip()}
            if documents:
                yield Question(
                    place, _digest(record.context), list(documents.values()), _example(record, list(documents))
                )
            else:
                reject(place, 'context does not split at its lines "Passage <n>:", n from 1, into passages')

    return splits.benchmark(
        read, dev_fraction=dev_fraction, test_fraction=test_fraction, seed=seed, max_questions=max_questions
    )


def passages(context: str) -> list[Document]:
    """The passages of a context in order, or the context as one document.

    Headers that count up from 1, titles and texts, joined by line ends, give the context back; where they do not, it is
    not of this format and has no passages.
    """
    before, *written = _HEADER.split(context)
    if not written:
        return [Document(f"longbench-context-{_digest(before)}", "", before)]
    written = [*(passage.removesuffix("\n") for passage in written[:-1]), written[-1]]
    joined = "\n".join(f"Passage {number}:\n{passage}" for number, passage in enumerate(written, start=1))
    return [_passage(passage) for passage in written] if joined == context else []


def _passage(written: str) -> Document:
    title, _, text = written.partition("\n")
    if not title.strip() or not text.strip() or len(title) > TITLE_CHARACTERS:
        title, text = "", written
    return Document(f"longbench-passage-{_digest(title, text)}", title, text, whole=True)


def _example(record: Record, document_ids: list[str]) -> Example:
    return Example(
        example_id=record.id,
        question_id=record.id,
        benchmark="longbench",
        split="",
        question=record.input,
        answer_lead="",
        answers=record.answers,
        document_ids=document_ids,
        gold_document_ids=[],
        evidence=[],
        gold_position=-1,
        subset=record.dataset,
    )


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
