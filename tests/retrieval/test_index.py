"""The index finds unique texts, the chunks of a context, and the gold chunks among them."""

import pytest

from pipeline.common.chunks import of_rows
from pipeline.retrieval.index import ChunkIndex, candidates
from pipeline.runtime.errors import ArtifactError


def chunk(document_id, index, text, start=0, title=""):
    return {
        "chunk_id": f"{document_id}#{index}",
        "document_id": document_id,
        "index": index,
        "start": start,
        "end": start + len(text),
        "title": title,
        "text": text,
    }


CHUNKS = [
    chunk("a", 0, "one two"),
    chunk("a", 1, " three", 7),
    chunk("b", 0, "one two", title="T"),
    chunk("c", 0, "one two"),
]


def example(document_ids, gold=(), evidence=()):
    spans = [dict(zip(("document_id", "start", "end"), span, strict=True)) for span in evidence]
    return {
        "example_id": "e",
        "question": "q?",
        "document_ids": document_ids,
        "gold_document_ids": list(gold),
        "evidence": spans,
    }


def test_equal_texts_are_one_unique_chunk_and_the_title_counts_as_text():
    assert list(ChunkIndex(of_rows(CHUNKS), with_title=True).texts) == ["one two", " three", "T one two"]
    assert list(ChunkIndex(of_rows(CHUNKS), with_title=False).texts) == ["one two", " three"]


def test_context_follows_the_order_of_documents_then_of_chunks():
    known = ChunkIndex(of_rows(CHUNKS), with_title=True)
    asked = example(["c", "b", "a"])
    chunks = known.chunks(asked)
    assert [found.chunk_id for found in chunks] == ["c#0", "b#0", "a#0", "a#1"]
    assert candidates(asked, chunks).rows_C.tolist() == [0, 2, 0, 1]


@pytest.mark.parametrize(
    ("gold", "evidence", "flags"),
    [
        (["a"], [("a", 6, 8)], [False, True, True]),  # overlaps both by one character
        (["a"], [("a", 7, 8)], [False, False, True]),
        (["a"], [], [False, True, True]),
        (["b", "a"], [("b", 0, 1)], [True, False, False]),
        ([], [], [False, False, False]),
    ],
)
def test_gold_is_what_overlaps_the_evidence_or_else_the_gold_documents(gold, evidence, flags):
    asked = example(["b", "a"], gold, evidence)
    assert candidates(asked, ChunkIndex(of_rows(CHUNKS), with_title=True).chunks(asked)).gold_C.tolist() == flags


def test_a_document_without_chunks_is_named():
    with pytest.raises(ArtifactError, match=r"example e: its document 'z' .*dvc repro"):
        ChunkIndex(of_rows(CHUNKS), with_title=True).chunks(example(["a", "z"]))
