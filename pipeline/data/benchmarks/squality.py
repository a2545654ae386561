"""SQuALITY v1.3: summaries of a story that answer a question (Wang et al. 2022, arXiv 2205.11465;
nyu-mll/SQuALITY @dc08d4f5, data/v1-3/txt).

A line holds a story and five questions, each with the summaries of four writers; the first question is the same for all
stories. The story's words are the official ones, its paragraphs are found by stories.reflow. A summary draws on the
whole story: gold document and evidence stay unknown. Stories that QuALITY has too are in the same split there.
"""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from pipeline.common.tables import Benchmark, Document, Example
from pipeline.data import jsonl
from pipeline.data.benchmarks import stories
from pipeline.data.jsonl import Lines, Reject, Some, Text
from pipeline.runtime.errors import DataError


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class Metadata(_Part):
    """Where a story comes from."""

    passage_id: Text


class Response(_Part):
    """One writer's summary."""

    response_text: str


class Question(_Part):
    """One of a line's `questions`."""

    question_text: Text
    question_number: int
    responses: list[Response]

    @property
    def summaries(self) -> list[str]:
        """What the writers wrote, in their order; each text once, none empty."""
        texts = (response.response_text.strip() for response in self.responses)
        return list(dict.fromkeys(filter(None, texts)))


class Record(_Part):
    """One line: a story and the questions about it."""

    metadata: Metadata
    document: Text
    questions: Some[Question]

    @property
    def document_id(self) -> str:
        return f"squality-{self.metadata.passage_id}"


def benchmark(
    files: Mapping[str, Lines],
    reject: Reject,
    *,
    dev_fraction: float,
    test_fraction: float,
    seed: int,
    max_questions: int | None,
) -> Benchmark:
    """Each story once, without a title, each question as one example over its story; train's are held out whole.

    `files` gives the lines of each split. A line that is none, and a question without a summary, go to `reject`. Memory
    holds everything.

    Raises:
        DataError: a story stands twice, in one split or in two, or a number of its questions.
    """
    documents: dict[str, Document] = {}
    place_of: dict[str, str] = {}
    examples: list[Example] = []
    for split in ("train", "dev", "test"):
        for place, record in jsonl.parse(files.get(split, ()), Record, reject):
            _refuse_twice(place_of, place, "story", record.document_id)
            documents[record.document_id] = Document(record.document_id, "", stories.reflow(record.document))
            for question in record.questions:
                question_id = f"{record.document_id}-{question.question_number}"
                _refuse_twice(place_of, place, "question", question_id)
                if question.summaries:
                    examples.append(_example(question, question_id, record.document_id, split))
                else:
                    reject(f"{place}, question {question.question_number}", "none of the responses has text")
    return stories.benchmark(
        documents,
        examples,
        dev_fraction=dev_fraction,
        test_fraction=test_fraction,
        seed=seed,
        max_questions=max_questions,
    )


def _refuse_twice(place_of: dict[str, str], place: str, kind: str, identifier: str) -> None:
    if identifier in place_of:
        raise DataError(f"{place}: {kind} {identifier!r} already stands in {place_of[identifier]}; keep one of them")
    place_of[identifier] = place


def _example(question: Question, question_id: str, document_id: str, split: str) -> Example:
    return Example(
        example_id=question_id,
        question_id=question_id,
        benchmark="squality",
        split=split,
        question=question.question_text.strip(),
        answer_lead="",
        answers=question.summaries,
        document_ids=[document_id],
        gold_document_ids=[],
        evidence=[],
        gold_position=-1,
    )
