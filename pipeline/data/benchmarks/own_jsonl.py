"""The user's own documents and questions, from documents.jsonl and questions.jsonl.

A question names the documents of its context; a document may stand in many contexts. Where no quote of the evidence is
given, all of a gold document counts as evidence.
"""

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.data import jsonl, splits
from pipeline.data.jsonl import Lines, Reject, Some, Text


class _Line(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_notes(cls, value: Any) -> Any:
        """Drop the keys that open with an underscore: they are the user's own notes."""
        return {key: item for key, item in value.items() if key[:1] != "_"} if isinstance(value, dict) else value


class DocumentLine(_Line):
    """A line of documents.jsonl."""

    id: Text
    title: str = ""
    text: Text
    whole: bool = False


class Quote(_Line):
    """A literal piece of a document that holds the answer."""

    document: Text
    text: Text


class QuestionLine(_Line):
    """A line of questions.jsonl."""

    id: Text
    question: Text
    answers: list[Text]
    """Empty in split unlabelled."""
    documents: Some[Text]
    split: Literal["train", "unlabelled", "dev", "test"]
    gold: list[Text] = Field(default_factory=list)
    evidence: list[Quote] = Field(default_factory=list)
    answer_lead: str = ""


def benchmark(documents: Lines, questions: Lines, reject: Reject) -> Benchmark:
    """Read documents and examples of both files, in their order; the documents must be taken first, to their end.

    Memory holds the documents' ids and lengths and the quotes, never a text. Bad lines go to `reject`.

    Raises:
        DataError: an id stands twice in one file.
    """
    length_of: dict[str, int] = {}
    found_at: dict[str, dict[str, int]] = {}

    def all_documents() -> Iterator[Document]:
        for _, question in jsonl.parse(questions, QuestionLine, reject):
            for quote in question.evidence:
                found_at.setdefault(quote.document, {})[quote.text] = -1
        place_of: dict[str, str] = {}
        for place, line in jsonl.parse(documents, DocumentLine, reject):
            jsonl.refuse_twice(place_of, place, f"document {line.id!r}")
            length_of[line.id] = len(line.text)
            for text in found_at.get(line.id, ()):
                found_at[line.id][text] = line.text.find(text)
            yield Document(line.id, line.title, line.text, line.whole)

    def all_examples() -> Iterator[Example]:
        place_of: dict[str, str] = {}
        for place, line in jsonl.parse(questions, QuestionLine, reject):
            jsonl.refuse_twice(place_of, place, f"question {line.id!r}")
            if problem := _problem(line, length_of, found_at):
                reject(place, problem)
            else:
                yield _example(line, length_of, found_at)

    return Benchmark(all_documents(), all_examples())


def _problem(line: QuestionLine, length_of: dict[str, int], found_at: dict[str, dict[str, int]]) -> str:
    """Tell what is wrong with the question, by itself or with the documents; empty: nothing."""
    if line.split == "unlabelled" and line.answers:
        return "answers must be an empty list in split unlabelled; a question with answers is one of split train"
    if line.split != "unlabelled" and not line.answers:
        return f"answers must not be an empty list in split {line.split}; split unlabelled is for questions without"
    for identifier in line.documents:
        if identifier not in length_of:
            return f"documents names {identifier!r}, which documents.jsonl does not have"
        if line.documents.count(identifier) > 1:
            return f"documents names {identifier!r} twice"
    for identifier in [*line.gold, *(quote.document for quote in line.evidence)]:
        if identifier not in line.documents:
            return f"gold or evidence names {identifier!r}, which is not among the question's documents"
    for quote in line.evidence:
        if found_at[quote.document][quote.text] < 0:
            return f"evidence {quote.text[:60]!r} does not stand in document {quote.document!r} word for word"
    return ""


def _example(line: QuestionLine, length_of: dict[str, int], found_at: dict[str, dict[str, int]]) -> Example:
    starts = [found_at[quote.document][quote.text] for quote in line.evidence]
    evidence = [
        Evidence(quote.document, start, start + len(quote.text))
        for quote, start in zip(line.evidence, starts, strict=True)
    ]
    unquoted = {*line.gold} - {quote.document for quote in line.evidence}
    evidence += [Evidence(name, 0, length_of[name]) for name in line.documents if name in unquoted]
    return splits.example(
        "jsonl",
        line.split,
        line.id,
        line.question,
        line.answers,
        line.documents,
        evidence,
        answer_lead=line.answer_lead,
    )
