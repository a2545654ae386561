"""QuALITY v1.0.1, htmlstripped: questions with four options about whole stories (Pang et al. 2022, arXiv 2112.08608;
nyu-mll/quality @f84977c4).

A line holds a story and one writer's questions; the lines of two writers stand in a file for each story and become one
document. The story's words are the official ones, its paragraphs are found by stories.reflow. Which words hold the
answer is not marked: gold document and evidence stay unknown. The official labels count from 1, ours from 0; those of
the official test file are hidden.
"""

import re
from collections.abc import Iterator
from typing import Literal

from pipeline.common.tables import Document, Example
from pipeline.data import splits
from pipeline.data.benchmarks import stories
from pipeline.data.jsonl import OfficialRecord, Some, Text
from pipeline.data.splits import Group, OfficialFiles
from pipeline.runtime.errors import DataError

NUM_OPTIONS = 4

_SUBSETS = {None: "", 0: "easy", 1: "hard"}
_TAG = re.compile(r"</?(?:html|body|div|p|br|h[1-6])\b[^<>]*>", re.IGNORECASE)
_MAX_TAGS = 10  # a story may write about a tag; one in HTML has hundreds


class QualityQuestion(OfficialRecord):
    """One of a line's `questions`."""

    question: Text
    options: list[Text]
    gold_label: int | None = None
    difficult: Literal[0, 1] | None = None
    question_unique_id: Text | None = None


class QualityRecord(OfficialRecord):
    """One line: a story and one writer's questions about it."""

    article_id: Text
    set_unique_id: Text
    title: str = ""
    article: Text
    questions: Some[QualityQuestion]

    def by_id(self) -> Iterator[tuple[str, QualityQuestion]]:
        """Yield (id, question); a question without an id counts from 1 in its set."""
        for number, question in enumerate(self.questions, start=1):
            yield question.question_unique_id or f"{self.set_unique_id}_{number}", question


def read(files: OfficialFiles) -> Iterator[Group]:
    """Yield each line as a story and its questions; stories of train are held out whole.

    A line in HTML or with other words than an earlier line of the same story, and a question without four options and
    the label of one that differs from the others, go to `reject`.

    Raises:
        DataError: a story stands in the files of two splits.
    """
    first_of: dict[str, tuple[str, str, str]] = {}
    for split, place, record in files.parse(QualityRecord):
        if len(_TAG.findall(record.article)) > _MAX_TAGS:
            files.reject(place, "article is HTML: not the htmlstripped file; use QuALITY.v1.0.1.htmlstripped.<split>")
            continue
        words = " ".join(record.article.split())
        first_split, first_place, first_words = first_of.setdefault(record.article_id, (split, place, words))
        if first_split != split:
            raise DataError(
                f"{place}: article {record.article_id!r} is in {split} here and in {first_split} in {first_place}; "
                "keep it in one of the two"
            )
        if words != first_words:
            files.reject(
                place,
                f"article {record.article_id!r} has other words than in {first_place}; take both lines from one "
                "release",
            )
            continue
        name = f"quality-{record.article_id}"
        examples = []
        for question_id, question in record.by_id():
            if problem := _problem(question):
                files.reject(f"{place}, question {question_id}", problem)
            else:
                examples.append(_example(question, question_id, name, split))
        document = Document(name, " ".join(record.title.split()), stories.reflow(record.article))
        yield Group(split, place, name, [document], examples)


def _problem(question: QualityQuestion) -> str:
    """Tell why nothing can be learnt or scored from the question; empty: no reason."""
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


def _example(question: QualityQuestion, question_id: str, document_id: str, split: str) -> Example:
    options = [option.strip() for option in question.options]
    assert question.gold_label is not None
    gold_option = question.gold_label - 1
    return splits.example(
        "quality",
        split,
        question_id,
        question.question.strip(),
        [options[gold_option]],
        [document_id],
        options=options,
        gold_option=gold_option,
        subset=_SUBSETS[question.difficult],
    )
