"""The index of all chunks of a run: each distinct text once, and the candidate chunks of each question."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.common import tables
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


class ChunkIndex:
    """Chunks by document, and `texts`: the unique chunk texts as the retriever reads them, by first appearance."""

    def __init__(self, rows: Iterable[Mapping[str, Any]], *, with_title: bool) -> None:
        """Index rows of tables.CHUNKS, where the chunks of a document stand in their order."""
        row_of: dict[str, int] = {}
        self._chunks_of: dict[str, list[IndexedChunk]] = {}
        self.num_chunks = 0
        for found in rows:
            text = retrievers.chunk_text(found["title"], found["text"], with_title=with_title)
            row = row_of.setdefault(text, len(row_of))
            chunk = IndexedChunk(
                found["chunk_id"], found["document_id"], found["start"], found["end"], found["text"], row
            )
            self._chunks_of.setdefault(chunk.document_id, []).append(chunk)
            self.num_chunks += 1
        self.texts = list(row_of)

    def chunks(self, example: Mapping[str, Any]) -> list[IndexedChunk]:
        """Return the chunks of an example's context: documents in the order of the context, chunks in the document's.

        Raises:
            ArtifactError: a document of the context has no chunks.
        """
        found: list[IndexedChunk] = []
        for document_id in example["document_ids"]:
            if document_id not in self._chunks_of:
                raise ArtifactError(
                    f"example {example['example_id']}: its document {document_id!r} is not among the chunks; run "
                    "`dvc repro -f prepare chunk`"
                )
            found += self._chunks_of[document_id]
        return found


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
