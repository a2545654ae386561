"""The chunks of a run: found by id and by document, their texts on disk."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common import chunks, tables
from pipeline.common.chunks import Chunk
from pipeline.runtime.errors import ArtifactError, ResourceError


def row(document_id, index, text, title="", start=0):
    return {
        "chunk_id": f"{document_id}#{index}", "document_id": document_id, "index": index, "start": start,
        "end": start + len(text), "title": title, "text": text,
    }  # fmt: skip


ROWS = [row("a#0", 0, "Ö"), row("a#0", 1, "", start=1), row("b", 0, "two", "T")]


def test_a_chunk_is_found_by_its_id_and_its_document_by_name():
    found = chunks.of_rows(ROWS)
    assert list(found) == ["a#0#0", "a#0#1", "b#0"] and list(found.documents) == ["a#0", "b"]
    assert found["b#0"] == Chunk("b#0", "b", "T", "two", 0, 3, 2)
    assert [chunk.text for chunk in found.of("a#0")] == ["Ö", ""]
    for stranger in ("a#0", "a#0#2", "b#-1", "b#x", "b", "c#0", 3):
        assert stranger not in found
    with pytest.raises(KeyError):
        found["b#1"]


def test_no_chunks_are_no_chunks():
    assert list(chunks.of_rows([])) == []


def test_the_table_is_read_with_nothing_left_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables.write(tables.CHUNKS, (row(f"d{number}", 0, f"text {number}") for number in range(1000)))
    found = chunks.read(tables.CHUNKS)
    assert found["d999#0"].text == "text 999" and len(found) == 1000
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["chunks.parquet"]


@given(st.lists(st.lists(st.text(), min_size=1, max_size=3), max_size=6), st.integers(1, 3))
def test_any_texts_come_back_whatever_the_batches(documents, size):
    rows = [row(str(name), index, text) for name, texts in enumerate(documents) for index, text in enumerate(texts)]
    whole = pa.Table.from_pylist(rows, schema=tables.CHUNKS.schema)
    found = chunks.Chunks(whole.to_batches(max_chunksize=size))
    assert [found[each["chunk_id"]].text for each in rows] == [each["text"] for each in rows]


def test_chunks_of_a_document_that_do_not_follow_each_other_are_refused():
    with pytest.raises(ArtifactError, match=r"of document 'a' do not follow .*; run `dvc repro -f chunk`"):
        chunks.of_rows([row("a", 0, "x"), row("b", 0, "y"), row("a", 1, "z")])


def test_a_disk_without_room_is_one_line(small_disk):
    with pytest.raises(ResourceError, match="scratch: cannot be written, no space left on device; make room"):
        chunks.Chunks(
            pa.Table.from_pylist([row("a", 0, "x" * 2_000_000)], schema=tables.CHUNKS.schema).to_batches(), small_disk
        )
