"""HotpotQA, distractor setting: two paragraphs to combine among ten (Yang et al. 2018, arXiv 1809.09600).

The official files list a question's paragraphs in an order that may tell the gold ones (some copies put them first), so
every context is shuffled by seed, question and paragraph. A supporting fact names a paragraph by its title and one of
its sentences by number; the official files name sentences that are not there, and then all of the paragraph is the
evidence. Where two paragraphs of a context share the title, both are gold.
"""

import hashlib
from collections.abc import Iterator
from typing import Annotated, NamedTuple

from pydantic import AliasChoices, Field

from pipeline.common.tables import Document, Evidence
from pipeline.data import splits
from pipeline.data.jsonl import OfficialRecord, Some, Text
from pipeline.data.splits import Group, OfficialFiles

# JSON has lists only; the items stay strict.
SupportingFact = Annotated[tuple[str, int], Field(strict=False)]
TitledSentences = Annotated[tuple[str, list[str]], Field(strict=False)]


class HotpotRecord(OfficialRecord):
    """An entry of a file."""

    id: Text = Field(validation_alias=AliasChoices("_id", "id"))
    question: Text
    answer: Text
    supporting_facts: list[SupportingFact]
    context: Some[TitledSentences]


class Paragraph(NamedTuple):
    """A paragraph with text."""

    document: Document
    sentences: list[str]

    def evidence(self, numbers: set[int]) -> list[Evidence]:
        """Locate the sentences with these numbers, in order; if none of them exists, take the whole paragraph."""
        name, text = self.document.document_id, self.document.text
        found, end = [], 0
        for number, sentence in enumerate(self.sentences):
            start, end = end, end + len(sentence)
            if number in numbers and sentence.strip():
                found.append(Evidence(name, start, end))
        return found or [Evidence(name, 0, len(text))]


def read(files: OfficialFiles) -> Iterator[Group]:
    """Yield each question with the paragraphs of its context as documents; train is held out by question ids."""
    for split, place, record in files.parse(HotpotRecord):
        context = shuffled(list(_paragraphs(record)), record.id, files.seed)
        if not context:
            files.reject(place, "context holds no paragraph with text")
            continue
        documents = [paragraph.document for paragraph in context]
        numbers_of: dict[str, set[int]] = {}
        for title, number in record.supporting_facts:
            numbers_of.setdefault(title, set()).add(number)
        evidence = [
            found
            for paragraph in context
            if paragraph.document.title in numbers_of
            for found in paragraph.evidence(numbers_of[paragraph.document.title])
        ]
        asked = splits.example(
            "hotpot",
            split,
            record.id,
            record.question,
            [record.answer],
            [document.document_id for document in documents],
            evidence,
        )
        yield Group(split, place, record.id, documents, [asked])


def shuffled(paragraphs: list[Paragraph], question_id: str, seed: int) -> list[Paragraph]:
    """Order the paragraphs by seed, question and their own texts, whatever order they come in."""
    return sorted(
        paragraphs,
        key=lambda found: hashlib.sha256(f"{seed}\n{question_id}\n{found.document.document_id}".encode()).digest(),
    )


def _paragraphs(record: HotpotRecord) -> Iterator[Paragraph]:
    """Yield the paragraphs of the context that have text, each once."""
    seen = set()
    for title, sentences in record.context:
        text = "".join(sentences)
        name = f"hotpot-paragraph-{splits.digest(title, text)}"
        if text.strip() and name not in seen:
            seen.add(name)
            yield Paragraph(Document(name, title, text, whole=True), sentences)
