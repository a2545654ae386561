"""SQuALITY v1.3: summaries of a story that answer a question (Wang et al. 2022, arXiv 2205.11465;
nyu-mll/SQuALITY @dc08d4f5, data/v1-3/txt).

A line holds a story and five questions, each with the summaries of four writers; the first question is the same for all
stories. The story's words are the official ones, its paragraphs are found by stories.reflow. A summary draws on the
whole story: gold document and evidence stay unknown. Stories that QuALITY has too are in the same split there.
"""

from collections.abc import Iterator

from pydantic import AliasPath, Field

from pipeline.common.tables import Document
from pipeline.data import jsonl, splits
from pipeline.data.benchmarks import stories
from pipeline.data.jsonl import OfficialRecord, Some, Text
from pipeline.data.splits import Group, OfficialFiles


class Response(OfficialRecord):
    """The summary of one writer."""

    response_text: str


class SqualityQuestion(OfficialRecord):
    """One of a line's `questions`."""

    question_text: Text
    question_number: int
    responses: list[Response]

    @property
    def summaries(self) -> list[str]:
        """The texts of the writers in their order; each text once, none empty."""
        texts = (response.response_text.strip() for response in self.responses)
        return list(dict.fromkeys(filter(None, texts)))


class SqualityRecord(OfficialRecord):
    """One line: a story and the questions about it."""

    passage_id: Text = Field(validation_alias=AliasPath("metadata", "passage_id"))
    document: Text
    questions: Some[SqualityQuestion]

    @property
    def document_id(self) -> str:
        return f"squality-{self.passage_id}"


def read(files: OfficialFiles) -> Iterator[Group]:
    """Yield each story, without a title, and its questions; stories of train are held out whole.

    A question without a summary goes to `reject`.

    Raises:
        DataError: a story stands twice, in one split or in two.
    """
    place_of: dict[str, str] = {}
    for split, place, record in files.parse(SqualityRecord):
        name = record.document_id
        jsonl.refuse_twice(place_of, place, f"story {name!r}")
        examples = []
        for question in record.questions:
            if question.summaries:
                question_id, text = f"{name}-{question.question_number}", question.question_text.strip()
                examples.append(splits.example("squality", split, question_id, text, question.summaries, [name]))
            else:
                files.reject(f"{place}, question {question.question_number}", "none of the responses has text")
        yield Group(split, place, name, [Document(name, "", stories.reflow(record.document))], examples)
