"""Artifacts on disk: equal bytes, whole or not there, and refused when they are not what they should be."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.common import tables
from pipeline.runtime.errors import ArtifactError

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
    assert tables.read(tables.CHUNKS.at(chunks), ["index"]).column("index").to_pylist() == list(range(600))
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
    with pytest.raises(OSError, match="No space"), tables.Writer(tables.CHUNKS.at(chunks)) as writer:
        writer.write(ROWS[0])

        def no_space() -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer._parquet, "close", no_space)
    assert chunks.read_bytes() == before
    assert os.listdir(chunks.parent) == ["chunks.parquet"]


@pytest.mark.parametrize("row", [{**ROWS[0], "text": None}, {k: v for k, v in ROWS[0].items() if k != "text"}])
def test_a_row_without_a_value_is_never_written(tmp_path: Path, row: dict):
    with pytest.raises((pa.ArrowException, ValueError)):
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
    with pytest.raises(
        ArtifactError, match="holds chunks version 1, expected scores version 1; run `dvc repro -f score`"
    ):
        list(tables.scan(tables.SCORES.at(chunks)))
    table = tables.read(tables.CHUNKS.at(chunks))
    old = table.schema.metadata | {b"schema_version": b"0"}
    pq.write_table(table.replace_schema_metadata(old), chunks)
    with pytest.raises(ArtifactError, match="holds chunks version 0, expected chunks version 1"):
        list(tables.scan(tables.CHUNKS.at(chunks)))
    index = table.schema.get_field_index("start")
    pq.write_table(table.set_column(index, "start", table["start"].cast(pa.int64())), chunks)
    with pytest.raises(ArtifactError, match="column start is int64, expected int32"):
        list(tables.scan(tables.CHUNKS.at(chunks)))
    pq.write_table(table.drop_columns(["start"]), chunks)
    with pytest.raises(ArtifactError, match="column start is missing, expected int32"):
        list(tables.scan(tables.CHUNKS.at(chunks)))


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


def test_joined_tables_keep_the_order_of_the_first(tmp_path: Path):
    scores, masked = tmp_path / "scores.parquet", tmp_path / "masked.parquet"
    tables.write(tables.SCORES.at(scores), [scores_of("b", ["x"]), scores_of("a", ["y", "z"])])
    tables.write(tables.MASKED_VIEWS.at(masked), [masked_of("a"), masked_of("b")])
    found = tables.joined(
        (tables.SCORES.at(scores), ["example_id", "ranks"]),
        (tables.MASKED_VIEWS.at(masked), ["example_id", "prompt_end"]),
    )
    assert found.to_dicts() == [
        {"example_id": "b", "ranks": [0], "prompt_end": 0},
        {"example_id": "a", "ranks": [0, 1], "prompt_end": 0},
    ]


@pytest.mark.parametrize("others", [["a"], ["a", "a"], ["a", "c"], ["a", "b", "c"]], ids=str)
def test_tables_of_other_examples_are_not_joined(tmp_path: Path, others: list[str]):
    scores, masked = tmp_path / "scores.parquet", tmp_path / "masked.parquet"
    tables.write(tables.SCORES.at(scores), [scores_of("a", ["x"]), scores_of("b", ["x"])])
    tables.write(tables.MASKED_VIEWS.at(masked), map(masked_of, others))
    with pytest.raises(ArtifactError, match=r"do not belong together: .* has 2 examples, .*; run `dvc repro -f score"):
        tables.joined((tables.SCORES.at(scores), ["example_id"]), (tables.MASKED_VIEWS.at(masked), ["example_id"]))


def test_tables_that_name_other_chunks_are_refused(tmp_path: Path):
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    tables.write(tables.SCORES.at(one), [scores_of("a", ["x"]), scores_of("b", ["y"])])
    tables.write(tables.SCORES.at(other), [scores_of("a", ["x"]), scores_of("b", ["z"])])
    columns = ["example_id", "chunk_ids"]
    sources = (tables.SCORES.at(one), columns), (tables.SCORES.at(other), columns)
    message = r"other.parquet: chunks of example b are not those in .*one.parquet; run `dvc repro -f score score`"
    with pytest.raises(ArtifactError, match=message):
        tables.joined(*sources)
    with pytest.raises(ArtifactError, match=message):
        list(tables.side_by_side(*sources))
    tables.write(tables.SCORES.at(other), [scores_of("b", ["y"]), scores_of("a", ["x"])])
    assert tables.joined(*sources)["chunk_ids"].to_list() == [["x"], ["y"]]
