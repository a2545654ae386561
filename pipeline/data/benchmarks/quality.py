"""QuALITY v1.0.1, htmlstripped: questions with four options about whole stories (Pang et al. 2022, arXiv 2112.08608;
nyu-mll/quality @f84977c4).

A line holds a story and one writer's questions; the lines of two writers stand in a file for each story and become one
document. The story's words are the official ones, its paragraphs are found by stories.reflow. Which words hold the
answer is not marked: gold document and evidence stay unknown. The official labels count from 1, ours from 0; those of
the official test file are hidden.
"""

import re
from collections.abc import Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline.common.tables import Benchmark, Document, Example
from pipeline.data import jsonl
from pipeline.data.benchmarks import stories
from pipeline.data.jsonl import Lines, Reject, Some, Text
from pipeline.runtime.errors import DataError

NUM_OPTIONS = 4

_SUBSETS = {None: "", 0: "easy", 1: "hard"}
_TAG = re.compile(r"</?(?:html|body|div|p|br|h[1-6])\b[^<>]*>", re.IGNORECASE)
_MAX_TAGS = 10  # a story may write about a tag; one in HTML has hundreds


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Question(_Part):
    """One of a line's `questions`."""

    question: Text
    options: list[Text]
    gold_label: int | None = None
    difficult: Literal[0, 1] | None = None
    question_unique_id: Text | None = None


class Record(_Part):
    """One line: a story and one writer's questions about it."""

    article_id: Text
    set_unique_id: Text
    title: str = ""
    article: Text
    questions: Some[Question]

    @property
    def document_id(self) -> str:
        return f"quality-{self.article_id}"


class _Story(NamedTuple):
    """A document, and the line and the split it was first seen in."""

    document: Document
    place: str
    split: str


def benchmark(
    files: Mapping[str, Lines],
    reject: Reject,
    *,
    dev_fraction: float,
    test_fraction: float,
    seed: int,
    max_questions: int | None,
) -> Benchmark:
    """Each story once, each question as one example over its story; stories of train are held out whole.

    `files` gives the lines of each split. A line that is none, and a question without four options and the label of
    one that differs from the others, go to `reject`. Memory holds everything.

    Raises:
        DataError: a story stands in two splits, or a question twice.
    """
    found: dict[str, _Story] = {}
    place_of: dict[str, str] = {}
    examples: list[Example] = []
    for split in ("train", "dev", "test"):
        for place, record in jsonl.parse(files.get(split, ()), Record, reject):
            if len(_TAG.findall(record.article)) > _MAX_TAGS:
                reject(place, "article is HTML: not the htmlstripped file; use QuALITY.v1.0.1.htmlstripped.<split>")
                continue
            document = Document(record.document_id, " ".join(record.title.split()), stories.reflow(record.article))
            first = found.setdefault(record.document_id, _Story(document, place, split))
            if first.split != split:
                raise DataError(
                    f"{place}: article {record.article_id!r} is in {split} here and in {first.split} in {first.place}; "
                    "keep it in one of the two"
                )
            if document.text.split() != first.document.text.split():
                reject(
                    place,
                    f"article {record.article_id!r} has other words than in {first.place}; take both lines from one "
                    "release",
                )
                continue
            for number, question in enumerate(record.questions, start=1):
                question_id = question.question_unique_id or f"{record.set_unique_id}_{number}"
                if question_id in place_of:
                    raise DataError(
                        f"{place}: question {question_id!r} already stands in {place_of[question_id]}; keep one of them"
                    )
                place_of[question_id] = place
                problem = _problem(question)
                if problem:
                    reject(f"{place}, question {question_id}", problem)
                else:
                    examples.append(_example(question, question_id, record.document_id, split))
    return stories.benchmark(
        {name: story.document for name, story in found.items()},
        examples,
        dev_fraction=dev_fraction,
        test_fraction=test_fraction,
        seed=seed,
        max_questions=max_questions,
    )


def _problem(question: Question) -> str:
    """Why nothing can be learnt or scored from the question; empty: no reason."""
    if len(question.options) != NUM_OPTIONS:
        return f"there are {len(question.options)} options, expected {NUM_OPTIONS}"
    if question.gold_label is None:
        return "there is no gold_label: the labels of the official test file are hidden; use the dev file as test"
    if question.gold_label not in range(1, NUM_OPTIONS + 1):
        return f"gold_label is {question.gold_label}, expected 1 to {NUM_OPTIONS}: official labels count from 1"
    options = [" ".join(option.split()) for option in question.options]
    # Two equal wrong options harm nobody.
    right = options[question.gold_label - 1]
    return f"the right option {right!r} stands there twice" if options.count(right) > 1 else ""


def _example(question: Question, question_id: str, document_id: str, split: str) -> Example:
    options = [option.strip() for option in question.options]
    assert question.gold_label is not None
    gold_option = question.gold_label - 1
    return Example(
        example_id=question_id,
        question_id=question_id,
        benchmark="quality",
        split=split,
        question=question.question.strip(),
        answer_lead="",
        answers=[options[gold_option]],
        document_ids=[document_id],
        gold_document_ids=[],
        evidence=[],
        gold_position=-1,
        options=options,
        gold_option=gold_option,
        subset=_SUBSETS[question.difficult],
    )
