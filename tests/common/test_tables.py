"""Artifacts on disk: equal bytes, whole or not there, and refused when they are not what they should be."""

import hashlib
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.common import seal, tables
from pipeline.runtime.errors import ArtifactError, NumericError, ResourceError

ROWS = [
    {"chunk_id": f"d#{i}", "document_id": "d", "index": i, "start": i, "end": i + 1, "title": "", "text": "ä"}
    for i in range(600)
]


@pytest.fixture
def chunks(tmp_path: Path) -> Path:
    path = tmp_path / "chunks.parquet"
    assert tables.write(tables.CHUNKS.at(path), ROWS, {"tokenizer_sha256": "abc"}) == 600
    return path


def test_rows_come_back_in_order_with_their_marks(chunks: Path):
    assert list(tables.scan(tables.CHUNKS.at(chunks))) == ROWS
    assert tables.frame(tables.CHUNKS.at(chunks), ["index"])["index"].to_list() == list(range(600))
    assert tables.metadata(tables.CHUNKS.at(chunks)) == {
        "table": "chunks", "schema_version": str(tables.CHUNKS.version), "tokenizer_sha256": "abc",
    }  # fmt: skip


def test_taken_rows_are_those_asked_for_with_numbers_as_arrays(chunks: Path, tmp_path: Path):
    assert list(tables.take(tables.CHUNKS.at(chunks), None, [0, 255, 256, 599])) == [
        ROWS[i] for i in (0, 255, 256, 599)
    ]
    assert list(tables.take(tables.CHUNKS.at(chunks), ["index"], [])) == []
    answer = {"example_id": "e", "output_ids": [5, 2], "top_ids": [], "top_log_probs": [-0.5, -1.0], "num_top": 1}
    path = tmp_path / "teachings.parquet"
    tables.write(tables.TEACHINGS.at(path), [answer, answer])
    (found,) = tables.take(tables.TEACHINGS.at(path), None, [1])
    assert (found["output_ids"].dtype, found["top_log_probs"].dtype) == (np.int32, np.float32)
    assert {name: getattr(value, "tolist", lambda value=value: value)() for name, value in found.items()} == answer
    chunks.write_bytes(chunks.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"chunks\.parquet"):
        list(tables.take(tables.CHUNKS.at(chunks), None, [0]))


def test_equal_rows_are_equal_bytes(chunks: Path, tmp_path: Path):
    other = tmp_path / "other.parquet"
    tables.write(tables.CHUNKS.at(other), iter(ROWS), {"tokenizer_sha256": "abc"})
    assert other.read_bytes() == chunks.read_bytes()


def test_row_groups_are_small(chunks: Path):
    assert pq.ParquetFile(chunks).metadata.num_row_groups == 3


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(chunks: Path):
    before = chunks.read_bytes()

    def rows():
        yield from ROWS[:300]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tables.write(tables.CHUNKS.at(chunks), rows())
    assert chunks.read_bytes() == before
    assert os.listdir(chunks.parent) == ["chunks.parquet"]


def test_a_full_disk_while_closing_leaves_nothing_behind(chunks: Path, monkeypatch: pytest.MonkeyPatch):
    before = chunks.read_bytes()
    message = r"chunks\.parquet: cannot be written, no space left on device; make room, and run it again"
    with pytest.raises(ResourceError, match=message), tables.writer(tables.CHUNKS.at(chunks)) as writer:
        writer.write(ROWS[0])

        def no_space() -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer._parquet, "close", no_space)
    assert chunks.read_bytes() == before
    assert os.listdir(chunks.parent) == ["chunks.parquet"]


@pytest.mark.parametrize("row", [{**ROWS[0], "text": None}, {k: v for k, v in ROWS[0].items() if k != "text"}])
def test_a_row_without_a_value_is_never_written(tmp_path: Path, row: dict):
    with pytest.raises((pa.ArrowException, KeyError, ValueError)):
        tables.write(tables.CHUNKS.at(tmp_path / "chunks.parquet"), [row])
    assert os.listdir(tmp_path) == []


def damage(path: Path, how: str) -> None:
    whole = bytearray(path.read_bytes())
    if how == "truncated":
        path.write_bytes(whole[: len(whole) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "magic":
        path.write_bytes(b"XXXX" + whole[4:-4] + b"XXXX")
    elif how == "bit flip":
        whole[200] ^= 0xFF
        path.write_bytes(whole)
    else:
        path.unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", r"chunks.parquet: damaged \(.*\); delete it and run `dvc checkout .*`"),
        ("empty", r"chunks.parquet: damaged"),
        ("magic", r"chunks.parquet: damaged"),
        ("bit flip", r"chunks.parquet: damaged"),
        ("gone", r"chunks.parquet: no such file; run `dvc repro chunk` first"),
    ],
)
def test_a_damaged_file_is_refused_with_the_way_out(chunks: Path, how: str, message: str):
    damage(chunks, how)
    with pytest.raises(ArtifactError, match=message) as caught:
        list(tables.scan(tables.CHUNKS.at(chunks)))
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)


def test_another_table_another_version_and_another_type_are_refused(chunks: Path):
    def refused(table: tables.Table, message: str) -> None:
        with pytest.raises(ArtifactError, match=message):
            list(tables.scan(table.at(chunks)))

    refused(tables.SCORES, "holds chunks version 1, expected scores version 1; run `dvc repro -f score`")
    tables.write(replace(tables.CHUNKS, path=chunks, version=0), ROWS)
    refused(tables.CHUNKS, "holds chunks version 0, expected chunks version 1")
    other = tuple((name, pa.int64() if name == "start" else kind) for name, kind in tables.CHUNKS.columns)
    tables.write(replace(tables.CHUNKS, path=chunks, columns=other), ROWS)
    refused(tables.CHUNKS, "column start is int64, expected int32")
    other = tuple(column for column in other if column[0] != "start")
    tables.write(replace(tables.CHUNKS, path=chunks, columns=other), ROWS)
    refused(tables.CHUNKS, "column start is missing, expected int32")


def test_a_file_carries_its_rows_its_digest_and_its_sources(chunks: Path, tmp_path: Path):
    marks = pq.read_metadata(chunks).metadata
    assert (marks[b"num_rows"], marks[b"made_from"]) == (b"600", b"{}")
    whole, digest = chunks.read_bytes(), marks[b"content_sha256"]
    assert hashlib.sha256(whole.replace(digest, b"0" * 64)).hexdigest().encode() == digest
    scores = tables.SCORES.at(tmp_path / "scores.parquet")
    tables.write(scores, [scores_of("a", ["d#0"])], sources=[tables.CHUNKS.at(chunks)])
    assert tables.made_from(scores) == {"chunks": digest.decode()}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("schema_version", b"schema_versiom", "holds chunks version unknown, expected chunks version 1"),
        ("made_from\x18\x02{}", b"made_from\x18\x02}{", "damaged .made_from in its metadata is no JSON"),
    ],
)
def test_a_table_that_another_program_wrote_with_its_digest_is_refused_in_one_line(
    tmp_path: Path, old: str, new: bytes, message: str
):
    table = tables.CHUNKS.at(tmp_path / "chunks.parquet")
    tables.write(table, ROWS[:1])
    content = table.path.read_bytes()
    assert len(old.encode()) == len(new) and old.encode() in content
    table.path.write_bytes(content.replace(old.encode(), new))
    seal.put(table.path)
    with pytest.raises(ArtifactError, match=message):
        tables.require_together(table)
        list(tables.scan(table))


def test_a_text_of_a_table_that_is_no_utf_8_is_refused_in_one_line(tmp_path: Path):
    table = tables.CHUNKS.at(tmp_path / "chunks.parquet")
    with tables.writer(table) as out:
        out.write(ROWS[0])
        out.flush()
        rows = pa.Table.from_pylist(ROWS[:1], schema=table.schema)
        text = pa.array([b"M\xfcnster"], pa.large_binary()).view(pa.large_string())
        out._parquet.write_table(rows.set_column(6, rows.schema.field("text"), text))
    with pytest.raises(ArtifactError, match=r"damaged .*can't decode byte 0xfc"):
        list(tables.scan(table))
    with pytest.raises(ArtifactError, match=r"damaged .*(?i:invalid utf)"):
        tables.frame(table)


def test_a_text_that_looks_like_the_digest_is_only_text(tmp_path: Path):
    """Parquet repeats the least and the greatest text of a column behind the rows."""
    table = tables.CHUNKS.at(tmp_path / "chunks.parquet")
    rows = [ROWS[0] | {"text": "content_sha256\x18@" + "0" * 64, "title": "content_sha256\x18@" + "f" * 64}]
    tables.write(table, rows, {"note": "content_sha256"})
    assert list(tables.scan(table)) == rows


def test_a_file_is_digested_once_and_again_when_it_changes(chunks: Path, monkeypatch: pytest.MonkeyPatch):
    digested = []
    digest = seal.sha256
    monkeypatch.setattr(seal, "sha256", lambda *args: digested.append(1) or digest(*args))
    for _ in range(3):
        tables.frame(tables.CHUNKS.at(chunks), ["index"])
    assert len(digested) == 1
    tables.write(tables.CHUNKS.at(chunks), ROWS[:-1])  # which digests it too
    assert len(tables.frame(tables.CHUNKS.at(chunks), ["index"])) == 599
    assert len(digested) == 3


def test_every_flip_of_a_bit_is_refused_in_one_line(chunks: Path, tmp_path: Path):
    """Most are in the footer, where a flip may leave a file that is valid Parquet and has fewer rows."""
    whole = chunks.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    rng = random.Random(1)
    places = [rng.randrange(len(whole) - footer) for _ in range(50)]
    places += [rng.randrange(len(whole) - footer, len(whole)) for _ in range(400)]
    for number, place in enumerate(places):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.randrange(8)
        table = tables.CHUNKS.at(tmp_path / f"{number}.parquet")
        table.path.write_bytes(flipped)
        for read in (tables.metadata, tables.frame, lambda table: list(tables.scan(table))):
            with pytest.raises(
                ArtifactError, match=r"parquet: damaged \(.*; delete it and run `dvc checkout"
            ) as caught:
                read(table)
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": [1.0, float("nan")]}, "column scores would hold NaN or an infinite number"),
        ({"scores": [1.0, float("-inf")]}, "column scores would hold NaN or an infinite number"),
        ({"ranks": [0, 2]}, "column ranks would be no permutation"),
        ({"ranks": [1, 1]}, "column ranks would be no permutation"),
        ({"ranks": [-1, 0]}, "column ranks would be no permutation"),
        ({"ranks": [0]}, "columns chunk_ids, scores, ranks, gold would differ in length"),
        ({"gold": [True] * 3}, "columns chunk_ids, scores, ranks, gold would differ in length"),
    ],
)
def test_numbers_that_make_no_sense_are_never_written(tmp_path: Path, changes: dict[str, object], message: str):
    table = tables.SCORES.at(tmp_path / "scores.parquet")
    good = [scores_of("a", ["x", "y", "z"]), scores_of("b", []), scores_of("c", ["x", "y"])]
    good[0] |= {"ranks": [2, 0, 1]}
    assert tables.write(table, good) == 3
    before = table.path.read_bytes()
    with pytest.raises(NumericError, match=f"scores.parquet: {message}, so it is not written"):
        tables.write(table, [*good, good[2] | changes])
    assert table.path.read_bytes() == before


def test_tables_made_from_others_than_those_beside_them_are_refused(tmp_path: Path):
    examples, chunks, scores, full = (
        table.at(tmp_path / f"{table.name}.parquet")
        for table in (tables.EXAMPLES, tables.CHUNKS, tables.SCORES, tables.FULL_VIEWS)
    )
    tables.write(examples, [])
    tables.write(chunks, ROWS)
    tables.write(scores, [], sources=[chunks, examples])
    tables.write(full, [], sources=[chunks, examples])
    found = tables.require_together(full, scores, examples)
    assert found["scores"] == pq.read_metadata(scores.path).metadata[b"content_sha256"].decode()
    tables.write(chunks, ROWS[:-1])
    with pytest.raises(
        ArtifactError,
        match=r"scores.parquet: was made from chunks with digest \w{12}, .*chunks.parquet has \w{12}; run `dvc repro s",
    ):
        tables.require_together(scores, chunks)
    tables.write(full, [], sources=[chunks, examples])
    message = r"scores.parquet: was made from chunks with digest \w{12}, .*full views.parquet from those with \w{12}; "
    with pytest.raises(ArtifactError, match=message + "run `dvc repro tokenize score`"):
        tables.require_together(full, scores)
    with pytest.raises(ArtifactError, match=message), tables.writer(tables.MASKED_VIEWS, sources=[full, scores]):
        raise AssertionError("the file was begun")
    with pytest.raises(ArtifactError, match=message):
        next(tables.side_by_side((full, None), (scores, None)))


def scores_of(example_id: str, chunk_ids: list[str]) -> dict[str, object]:
    return {
        "example_id": example_id, "chunk_ids": chunk_ids, "scores": [1.0] * len(chunk_ids),
        "ranks": list(range(len(chunk_ids))), "gold": [False] * len(chunk_ids),
    }  # fmt: skip


def masked_of(example_id: str) -> dict[str, object]:
    row: dict[str, object] = {name: [] for name, _ in tables.MASKED_VIEWS.columns}
    for name, kind in tables.MASKED_VIEWS.columns:
        if pa.types.is_integer(kind):
            row[name] = 0
        elif pa.types.is_boolean(kind):
            row[name] = False
        elif pa.types.is_large_string(kind):
            row[name] = ""
    return {**row, "example_id": example_id}


def test_a_frame_holds_what_a_scan_yields(chunks: Path):
    assert tables.frame(tables.CHUNKS.at(chunks)).to_dicts() == list(tables.scan(tables.CHUNKS.at(chunks)))
    assert tables.frame(tables.CHUNKS.at(chunks), ["chunk_id"]).columns == ["chunk_id"]


@pytest.mark.parametrize("others", [["a"], ["a", "a"], ["b", "a"], ["a", "c"], ["a", "b", "c"]], ids=str)
def test_tables_of_other_examples_are_not_read_together(tmp_path: Path, others: list[str]):
    scores, masked = tmp_path / "scores.parquet", tmp_path / "masked.parquet"
    tables.write(tables.SCORES.at(scores), [scores_of("a", ["x"]), scores_of("b", ["x"])])
    tables.write(tables.MASKED_VIEWS.at(masked), map(masked_of, others))
    with pytest.raises(ArtifactError, match=r"do not belong together: .*; run `dvc repro -f score mask`"):
        list(tables.side_by_side((tables.SCORES.at(scores), None), (tables.MASKED_VIEWS.at(masked), None)))


def test_tables_that_name_other_chunks_are_refused(tmp_path: Path):
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    tables.write(tables.SCORES.at(one), [scores_of("a", ["x"]), scores_of("b", ["y"])])
    tables.write(tables.SCORES.at(other), [scores_of("a", ["x"]), scores_of("b", ["z"])])
    columns = ["example_id", "chunk_ids"]
    sources = (tables.SCORES.at(one), columns), (tables.SCORES.at(other), columns)
    message = r"other.parquet: chunks of example b are not those in .*one.parquet; run `dvc repro -f score score`"
    with pytest.raises(ArtifactError, match=message):
        list(tables.side_by_side(*sources))
    tables.write(tables.SCORES.at(other), [scores_of("a", ["x"]), scores_of("b", ["y"])])
    assert [one["chunk_ids"] for one, _ in tables.side_by_side(*sources)] == [["x"], ["y"]]
