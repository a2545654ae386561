"""The index of all chunks of a run: each distinct text once, and the candidate chunks of each question."""

from array import array
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple, overload

import numpy as np

from pipeline.common import tables
from pipeline.common.chunks import CACHED, Chunks
from pipeline.retrieval import retrievers
from pipeline.runtime.errors import ArtifactError


class IndexedChunk(NamedTuple):
    """A chunk of a document: characters [start, end) of its text."""

    chunk_id: str
    document_id: str
    start: int
    end: int
    text: str
    row: int
    """Row of its text among the unique chunks."""


class UniqueTexts(Sequence[str]):
    """The unique chunk texts as the retriever reads them, by first appearance; they stay on disk."""

    def __init__(self, chunks: Chunks, *, with_title: bool) -> None:
        self._chunks, self._with_title = chunks, with_title
        self.row_of = array("i")
        """Of each chunk the row of its text among the unique ones."""
        self._first = array("q")
        rows: dict[bytes, int] = {}
        for number in range(len(chunks)):
            digest = blake2b(self._text(number).encode(), digest_size=16).digest()
            if (row := rows.setdefault(digest, len(rows))) == len(self._first):
                self._first.append(number)
            self.row_of.append(row)

    def __len__(self) -> int:
        return len(self._first)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self._text(number) for number in self._first[row]]
        return self._text(self._first[row])

    def _text(self, number: int) -> str:
        title = self._chunks.title(number) if self._with_title else ""
        return retrievers.chunk_text(title, self._chunks.text(number), with_title=self._with_title)


class ChunkIndex:
    """Chunks by document, and `texts`: the unique chunk texts as the retriever reads them."""

    def __init__(self, chunks: Chunks, *, with_title: bool) -> None:
        self._chunks = chunks
        self.num_chunks = len(chunks)
        self.texts = UniqueTexts(chunks, with_title=with_title)
        self._of = lru_cache(maxsize=CACHED)(self._read)

    def chunks(self, example: Mapping[str, Any]) -> list[IndexedChunk]:
        """Return the chunks of an example's context: documents in the order of the context, chunks in the document's.

        Raises:
            ArtifactError: a document of the context has no chunks.
        """
        found: list[IndexedChunk] = []
        for document_id in example["document_ids"]:
            if document_id not in self._chunks.documents:
                raise ArtifactError(
                    f"example {example['example_id']}: its document {document_id!r} is not among the chunks; run "
                    "`dvc repro -f prepare chunk`"
                )
            found += self._of(document_id)
        return found

    def _read(self, document_id: str) -> list[IndexedChunk]:
        return [
            IndexedChunk(
                chunk.chunk_id, document_id, chunk.start, chunk.end, chunk.text, self.texts.row_of[chunk.number]
            )
            for chunk in self._chunks.of(document_id)
        ]


def candidates(example: Mapping[str, Any], chunks: list[IndexedChunk]) -> retrievers.Candidates:
    """Return what a retriever scores. Gold chunks overlap the evidence; without evidence, all of a gold document's."""
    evidence = [tables.Evidence(**span) for span in example["evidence"]]
    if evidence:
        gold = list(tables.gold_flags(((chunk.document_id, chunk.start, chunk.end) for chunk in chunks), evidence))
    else:
        gold = [chunk.document_id in example["gold_document_ids"] for chunk in chunks]
    return retrievers.Candidates(
        example["example_id"],
        example["question"],
        np.array([chunk.row for chunk in chunks], dtype=np.int32),
        np.array(gold, dtype=np.bool_),
    )
