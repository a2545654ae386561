"""LongBench's question answering, JSONL of THUDM/LongBench (Bai et al. 2023, arXiv 2308.14508).

The multi-passage tasks (hotpotqa, 2wikimqa, musique) join their passages in one `context`, each below a line
"Passage <n>:"; those become the documents, in that order, titled by their first line. Any other context is one
document. Which passages hold the answer is not told. The name of the task is the example's subset.
"""

import re
from collections.abc import Iterator

from pydantic import AliasChoices, Field

from pipeline.common.tables import Document
from pipeline.data import splits
from pipeline.data.jsonl import OfficialRecord, Some, Text
from pipeline.data.splits import Group, OfficialFiles

TITLE_CHARACTERS = 100  # a first line up to this long is the title; the longest seen in the data has 67
_HEADER = re.compile(r"^Passage [0-9]+:\n", re.MULTILINE)


class LongbenchRecord(OfficialRecord):
    """A line of a file."""

    id: Text = Field(validation_alias=AliasChoices("_id", "id"))
    dataset: str = ""
    input: Text
    context: Text
    answers: Some[Text]


def read(files: OfficialFiles) -> Iterator[Group]:
    """Yield each question with the passages of its context as documents; train is held out by whole contexts."""
    for split, place, record in files.parse(LongbenchRecord):
        # A passage that is empty, or there twice, would be a document without text, or twice in a context.
        documents = {found.document_id: found for found in passages(record.context) if found.text.strip()}
        if documents:
            asked = splits.example(
                "longbench", split, record.id, record.input, record.answers, list(documents), subset=record.dataset
            )
            yield Group(split, place, splits.digest(record.context), list(documents.values()), [asked])
        else:
            files.reject(place, 'context does not split at its lines "Passage <n>:", n from 1, into passages')


def passages(context: str) -> list[Document]:
    """Split a context into its passages in order; a context without headers is one document.

    Headers that count up from 1, titles and texts, joined by line ends, must be the context again; otherwise it is not
    of this format, and the list is empty.
    """
    before, *written = _HEADER.split(context)
    if not written:
        return [Document(f"longbench-context-{splits.digest(before)}", "", before)]
    written = [*(passage.removesuffix("\n") for passage in written[:-1]), written[-1]]
    joined = "\n".join(f"Passage {number}:\n{passage}" for number, passage in enumerate(written, start=1))
    return [_passage(passage) for passage in written] if joined == context else []


def _passage(written: str) -> Document:
    title, _, text = written.partition("\n")
    if not title.strip() or not text.strip() or len(title) > TITLE_CHARACTERS:
        title, text = "", written
    return Document(f"longbench-passage-{splits.digest(title, text)}", title, text, whole=True)
