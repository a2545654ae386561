"""The user's own documents and questions: files in our format, or rows of other data sets (qa_rows.py).

A question names the documents of its context, or carries their texts; a document may stand in many contexts. Where no
quote of the evidence is given, all of a gold document counts as evidence.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, model_validator

from pipeline.common.tables import Benchmark, Document, Evidence, Example
from pipeline.data import jsonl, splits
from pipeline.data.benchmarks import qa_rows
from pipeline.data.jsonl import Lines, OfficialRecord, Reject, Some, Text

SPLIT_OF = {
    "train": "train", "dev": "dev", "val": "dev", "valid": "dev", "validation": "dev", "test": "test",
    "unlabelled": "unlabelled", "unlabeled": "unlabelled",
}  # fmt: skip
"""Split by the words that name it in rows and file names."""
UNANSWERABLE = "questions without an answer"
_LOOKS_ALIKE = -2
"""In the place of a quote's first character: only what looks like it stands in the document."""
COPIES = "documents with the title and text of another one"


class _Line(OfficialRecord):
    model_config = ConfigDict(extra="forbid")

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
    start: int | None = None
    """First character of the document's text, from 0; null: the first place where the quote stands."""


def _split(value: Any) -> Any:
    return SPLIT_OF.get(value.lower(), value) if isinstance(value, str) else value


class QuestionLine(_Line):
    """A line of questions.jsonl."""

    id: Text
    question: Text
    answers: list[Annotated[Text, AfterValidator(str.strip)]]
    """Empty in split unlabelled. Blanks and line ends around an answer are no part of it."""
    documents: Some[Text]
    split: Annotated[Literal["train", "unlabelled", "dev", "test"], BeforeValidator(_split)]
    gold: list[Text] = Field(default_factory=list)
    evidence: list[Quote] = Field(default_factory=list)
    answer_lead: str = ""


def questions(
    parts: Mapping[str, Lines], reject: Reject, left_out: Counter[str]
) -> Iterator[tuple[str, QuestionLine, list[Document]]]:
    """Yield place and question of each row, and the documents that the row carries.

    `parts` are rows by their split (empty: each row names its own). Bad rows go to `reject`; a question that its data
    set calls unanswerable is counted in `left_out`.
    """
    left_out[UNANSWERABLE] = 0
    for split, rows in parts.items():
        for place, row in qa_rows.unnested(rows):
            documents: list[Document] = []
            if qa_rows.carries_texts(row):
                try:
                    row, documents = qa_rows.ours(row)
                except (ValueError, RecursionError) as error:
                    reject(place, jsonl.TOO_DEEP if isinstance(error, RecursionError) else str(error))
                    continue
                if not row["answers"] and _split(row.get("split") or split) != "unlabelled":
                    left_out[UNANSWERABLE] += 1
                    continue
            if isinstance(row, dict):
                if "id" not in row and not {"question", "documents"} <= row.keys():
                    keys = ", ".join(list(row)[:8])
                    reject(place, f"this is no question with a context (keys: {keys}); a row is {qa_rows.SHAPE}")
                    continue
                row = {**row, "split": split} if split and row.get("split") is None else row
                if _split(row.get("split")) == "unlabelled" and row.get("answers") is None:
                    row = {**row, "answers": []}
            for _, line in jsonl.parse([(place, row)], QuestionLine, reject):
                yield place, line, documents


def benchmark(documents: Lines | None, parts: Mapping[str, Lines], reject: Reject, left_out: Counter[str]) -> Benchmark:
    """Read documents (None: there is no file of them) and examples, in their order; the documents must be taken first,
    to their end.

    A document with title and text of an earlier one, but for blanks, is that one under another id, so the two are never
    compared.
    Memory holds the documents' ids, lengths and digests and the quotes, never a text. `parts`, `reject` and `left_out`
    are those of `questions`; `left_out` also counts the copies.

    Raises:
        DataError: an id stands twice in one file.
    """
    known = _Documents(has_file=documents is not None)

    def all_documents() -> Iterator[Document]:
        for _, question, carried in questions(parts, reject, left_out):
            known.expect(question)
            for document in carried:
                if known.add(document, may_be_copy=False):  # their ids are digests
                    yield document
        place_of: dict[str, str] = {}
        for place, line in jsonl.parse(documents or (), DocumentLine, reject):
            jsonl.refuse_twice(place_of, place, f"document {line.id!r}")
            document = Document(line.id, line.title, line.text, line.whole)
            if known.add(document, may_be_copy=True):
                yield document
            else:
                left_out[COPIES] += 1

    def all_examples() -> Iterator[Example]:
        place_of: dict[str, str] = {}
        for place, line, _ in questions(parts, reject, left_out):
            jsonl.refuse_twice(place_of, place, f"question {line.id!r}")
            if problem := known.problem(line):
                reject(place, problem)
            else:
                yield known.example(line)

    return Benchmark(all_documents(), all_examples())


class _Documents:
    """Facts about the documents that the examples need: copies, lengths, and the places of quotes."""

    def __init__(self, has_file: bool) -> None:
        self._has_file = has_file
        self._first_of: dict[str, str] = {}
        """The id of the first document with the words of its title and text, by id."""
        self._by_words: dict[str, str] = {}
        self._digest_of: dict[str, str] = {}
        self._length_of: dict[str, int] = {}
        self._start_of: dict[str, dict[tuple[str, int | None], int]] = {}
        """First character of each quote of a document; below 0: it does not stand there."""

    def expect(self, question: QuestionLine) -> None:
        """Remember the quotes of a question, to find them in the documents that follow."""
        for quote in question.evidence:
            self._start_of.setdefault(quote.document, {}).setdefault((quote.text, quote.start), -1)

    def add(self, document: Document, may_be_copy: bool) -> bool:
        """Take a document; return whether it is new."""
        name, text = document.document_id, document.text
        for quote, start in self._start_of.get(name, ()):
            found = text.find(quote) if start is None else start if text.startswith(quote, start) else -1
            looks_alike = found < 0 and _looks(quote) in _looks(text)
            self._start_of[name][quote, start] = _LOOKS_ALIKE if looks_alike else found
        self._length_of[name], self._digest_of[name] = len(text), splits.digest(text.rstrip())
        words = splits.digest(*(" ".join(part.split()) for part in (document.title, text)))
        first = self._by_words.setdefault(words, name) if may_be_copy else name
        if name in self._start_of and self._digest_of[name] != self._digest_of[first]:
            first = name  # its quotes stand at other characters than in the first one
        is_new = name not in self._first_of and first == name
        self._first_of[name] = first
        return is_new

    def problem(self, line: QuestionLine) -> str:
        """Tell what is wrong with the question, by itself or with the documents; empty: nothing."""
        if line.split == "unlabelled" and line.answers:
            return "answers must be an empty list in split unlabelled; a question with answers is one of split train"
        if line.split != "unlabelled" and not line.answers:
            return f"answers must not be an empty list in split {line.split}; split unlabelled is for questions without"
        for identifier in line.documents:
            if identifier not in self._first_of and not self._has_file:
                return (
                    f"documents names {identifier!r}, but there is no documents.jsonl; put one beside the questions, "
                    "or give the texts in the row, as context"
                )
            if identifier not in self._first_of:
                return f"documents names {identifier!r}, which documents.jsonl does not have{self._near(identifier)}"
            if line.documents.count(identifier) > 1:
                return f"documents names {identifier!r} twice"
        for identifier in [*line.gold, *(quote.document for quote in line.evidence)]:
            if identifier not in line.documents:
                return f"gold or evidence names {identifier!r}, which is not among the question's documents"
        for quote in line.evidence:
            if self._start_of[quote.document][quote.text, quote.start] < 0:
                where = "" if quote.start is None else f" at character {quote.start}"
                alike = self._start_of[quote.document][quote.text, quote.start] == _LOOKS_ALIKE
                return (
                    f"evidence {quote.text[:60]!r} does not stand in document {quote.document!r}{where} word for word"
                    + (
                        " (it does elsewhere, or with other blanks, case or accents: copy it from there)"
                        if alike
                        else ""
                    )
                )
        return ""

    def _near(self, identifier: str) -> str:
        """Hint at an id that looks like this one."""
        if not self._first_of:
            return "; put the documents there, or give their texts in the row, as context"
        near = self._by_looks.get(_looks(identifier))
        return "" if near is None else f" (it has {near!a}, not {identifier!a}: write them alike)"

    @cached_property
    def _by_looks(self) -> dict[str, str]:
        return {_looks(name): name for name in self._first_of}

    def example(self, line: QuestionLine) -> Example:
        """Build the example; of the copies of a document in the context, the first stays."""
        evidence = []
        for quote in line.evidence:
            start = self._start_of[quote.document][quote.text, quote.start]
            evidence.append(Evidence(self._first_of[quote.document], start, start + len(quote.text)))
        unquoted = {*line.gold} - {quote.document for quote in line.evidence}
        evidence += [
            Evidence(self._first_of[name], 0, self._length_of[self._first_of[name]])
            for name in line.documents
            if name in unquoted
        ]
        return splits.example(
            "jsonl",
            line.split,
            line.id,
            line.question,
            line.answers,
            list(dict.fromkeys(self._first_of[name] for name in line.documents)),
            evidence,
            answer_lead=line.answer_lead,
        )


def _looks(identifier: str) -> str:
    """Fold what the eye does not tell apart: case, blanks, and the encoding of accents."""
    return " ".join(unicodedata.normalize("NFKC", identifier).casefold().split())
