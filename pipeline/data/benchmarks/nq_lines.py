"""Lines about Natural Questions in both formats, Lost in the Middle's and NQ-open's, into questions."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline.common.text import tokens
from pipeline.data import jsonl
from pipeline.data.jsonl import Lines, Reject, Some, Text

SPLITS = ("train", "dev", "test")


class Passage(BaseModel):
    """One of a record's `ctxs`, or a line of a collection."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    title: str = ""
    text: Text
    isgold: bool = False

    @cached_property
    def document_id(self) -> str:
        return f"nq-passage-{_digest(self.title, self.text)}"


class Record(BaseModel):
    """A line of Lost in the Middle: a question, its references and its passages in order."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    question: Text
    answers: Some[Text]
    ctxs: Some[Passage]


class OpenQuestion(BaseModel):
    """A line of NQ-open: a question and its references."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    question: Text
    answer: Some[Text]


class Question(NamedTuple):
    """A line of either kind."""

    place: str
    question_id: str
    text: str
    answers: Sequence[str]
    passages: Sequence[Passage]
    """A whole context, the gold passage alone, or none."""


class Survey(NamedTuple):
    """What must be known of all files before the first context is built."""

    owner_of: dict[str, str]
    """The last of train, dev and test whose files ask a question, by question id."""
    test_texts: set[str]
    """Digests of the passages that the test files carry, by their words."""
    test_gold: list[Passage]
    """Gold passages of the test records without distractors, each once."""


def questions(found: Lines, reject: Reject) -> Iterator[Question]:
    """A line with `ctxs` is a record of Lost in the Middle, any other one of NQ-open; bad ones go to `reject`."""
    for line in found:
        match line:
            case (_, {"ctxs": _}):
                for place, record in jsonl.parse([line], Record, reject):
                    problem = _problem(record)
                    if problem:
                        reject(place, problem)
                    else:
                        yield _question(place, record.question, record.answers, record.ctxs)
            case _:
                for place, asked in jsonl.parse([line], OpenQuestion, reject):
                    yield _question(place, asked.question, asked.answer, [])


def survey(files: Mapping[str, Lines], reject: Reject) -> Survey:
    """Reads all files once; `files` gives the lines of each split."""
    owner_of: dict[str, str] = {}
    text_of: dict[str, str] = {}
    gold: dict[str, Passage] = {}
    for name in SPLITS:
        for question in questions(files.get(name, ()), reject):
            owner_of[question.question_id] = name
            for passage in question.passages if name == "test" else ():
                if passage.document_id not in text_of:
                    text_of[passage.document_id] = text_digest(passage)
                if len(question.passages) == 1:
                    gold[passage.document_id] = passage
    return Survey(owner_of, set(text_of.values()), list(gold.values()))


def text_digest(passage: Passage) -> str:
    """Of the words of the text, whatever their case, accents' encoding and blanks."""
    return _digest(tokens(passage.text))


def _problem(record: Record) -> str:
    """What is wrong with a record's passages; empty: nothing."""
    if len(record.ctxs) == 1 and not record.ctxs[0].isgold:
        return "ctxs holds one passage, and it is not marked `isgold: true`"
    if len({passage.document_id for passage in record.ctxs}) < len(record.ctxs):
        return "ctxs holds one passage twice"
    return ""


def _question(place: str, text: str, references: Sequence[str], passages: Sequence[Passage]) -> Question:
    words = " ".join(text.casefold().split()).rstrip("? ")
    return Question(place, f"nq-{_digest(words)}", text, references, passages)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
