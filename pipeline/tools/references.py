"""What the official file of each benchmark asks to be answered with, by the names its questions go by."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.data import jsonl
from pipeline.data.benchmarks import hotpot, longbench, nq, own_jsonl, qasper, quality, squality
from pipeline.data.jsonl import Lines, Reject
from pipeline.evaluation import metrics
from pipeline.runtime.errors import DataError

# LongBench scores these by F1; all but triviaqa in full.
_LONGBENCH = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa")


@dataclass(frozen=True, slots=True)
class Reference:
    """A question's answers; what a benchmark does not have is empty."""

    names: tuple[str, ...]
    """A prediction may use any; the first is shown."""
    answers: Sequence[str]
    """Empty: they are lost, and the question is left out."""
    options: Sequence[str] = ()
    label: int = 0
    """Of the right option, from 1; 0: no multiple choice."""
    difficult: int | None = None
    annotations: Sequence[Mapping[str, Any]] = field(default=())
    """Qasper's `answers` as they are."""
    cut: Callable[[str], str] = str
    """What of a prediction the official script reads; all of it, if nothing is said."""


def read(benchmark: str, found: Lines, reject: Reject) -> list[Reference]:
    """The questions of an official file in order; what is none goes to `reject`. Of `jsonl` those of split test.

    `found` are lines, or entries of a file that is one JSON value (see `WHOLE`).

    Raises:
        DataError: a question stands twice, or there is none.
    """
    place_of: dict[str, str] = {}
    references = []
    for place, reference in _READERS[benchmark](found, reject):
        for name in reference.names:
            jsonl.refuse_twice(place_of, place, f"question {name!r}")
        references.append(reference)
    if not references:
        raise DataError(f"the references hold no question of {benchmark}; give the official file of that benchmark")
    return references


def _quality(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, quality.QualityRecord, reject):
        for name, question in record.by_id():
            label, num_options = question.gold_label, len(question.options)
            if label is None or not 1 <= label <= num_options:
                reject(
                    f"{place}, question {name}",
                    f"gold_label is {label}, expected 1 to {num_options}; the labels of the official test file are "
                    "hidden",
                )
                continue
            yield (
                place,
                Reference(
                    (name,), [question.options[label - 1]], question.options, label=label, difficult=question.difficult
                ),
            )


def _qasper(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for place, paper in jsonl.parse(qasper.with_paper_ids(found), qasper.Paper, reject):
        for question in paper.qas:
            answers = [annotation.answer for annotation in question.answers]
            if not all(answer.reference[1] for answer in answers):
                reject(f"{place}, question {question.question_id}", "an annotator's answer says nothing")
                continue
            yield (
                place,
                Reference(
                    (question.question_id,),
                    [answer.reference[0] for answer in answers],
                    annotations=[{"answer": answer.model_dump()} for answer in answers],
                ),
            )


def _nq(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for question in nq.questions(found, reject):
        yield question.place, Reference((question.text, question.question_id), question.answers, cut=metrics.first_line)


def _hotpot(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, hotpot.HotpotRecord, reject):
        yield place, Reference((record.id,), [record.answer])


def _longbench(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, longbench.LongbenchRecord, reject):
        task = record.dataset.removesuffix("_e")
        if task and task not in _LONGBENCH:
            reject(place, f"dataset is {task!r}, scored here are those that LongBench scores by F1: {_LONGBENCH}")
            continue
        yield place, Reference((record.id,), record.answers, cut=_first_filled_line if task == "triviaqa" else str)


def _squality(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, squality.SqualityRecord, reject):
        for question in record.questions:
            number = question.question_number
            names = (f"{record.document_id}-{number}", f"{record.metadata.passage_id}-{number}")
            yield place, Reference(names, question.summaries)


def _jsonl(found: Lines, reject: Reject) -> Iterator[tuple[str, Reference]]:
    for place, line in jsonl.parse(found, own_jsonl.QuestionLine, reject):
        if line.split == "test":
            yield place, Reference((line.id,), line.answers, cut=metrics.first_line)


def _first_filled_line(text: str) -> str:
    return text.lstrip("\n").split("\n")[0]


_READERS: dict[str, Callable[[Lines, Reject], Iterator[tuple[str, Reference]]]] = {
    "quality": _quality,
    "qasper": _qasper,
    "nq": _nq,
    "hotpot": _hotpot,
    "longbench": _longbench,
    "squality": _squality,
    "jsonl": _jsonl,
}
BENCHMARKS = tuple(_READERS)
WHOLE = ("qasper", "hotpot")
"""Whose official file is one JSON value; the others have one a line."""
