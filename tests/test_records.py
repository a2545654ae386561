"""JSONL files as users bring them: every oddity is either passed over or named with file and line."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import records
from pipeline.errors import DataError


def read(path, rejects=None):
    return list(records.Lines([path], rejects or records.Rejects()))


def values(path):
    return [value for _, value in read(path)]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """One file that hypothesis writes again and again."""
    return tmp_path_factory.mktemp("drawn") / "lines.jsonl"


@pytest.mark.parametrize(
    "content",
    [
        b'{"a": 1}\n{"b": 2}\n',
        b'{"a": 1}\n{"b": 2}',
        b'\xef\xbb\xbf{"a": 1}\r\n{"b": 2}\r\n',
        b'\n{"a": 1}\n  \n\n{"b": 2}\n\n',
    ],
    ids=["plain", "no last line end", "BOM and CRLF", "blank lines"],
)
def test_the_same_lines_in_many_dresses(tmp_path, content):
    plain, zipped = tmp_path / "lines.jsonl", tmp_path / "lines.jsonl.gz"
    plain.write_bytes(content)
    zipped.write_bytes(gzip.compress(content))
    assert values(plain) == values(zipped) == [{"a": 1}, {"b": 2}]


def test_a_file_that_a_browser_unpacked_is_read_all_the_same(tmp_path):
    path = tmp_path / "lines.jsonl.gz"
    path.write_bytes(b'{"a": 1}\n')
    assert values(path) == [{"a": 1}]


def test_line_separators_inside_a_text_end_no_line(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": "x\u2028y\x85z"}\n', encoding="utf-8")
    assert values(path) == [{"a": "x\u2028y\x85z"}]


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none())))
def test_what_json_writes_is_read_back(drawn, objects):
    drawn.write_text("".join(json.dumps(found, ensure_ascii=False) + "\n" for found in objects), encoding="utf-8")
    assert values(drawn) == objects


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": NaN}\n', "NaN is not JSON; write null, or leave the key out"),
        (b'{"a": -Infinity}\n', "-Infinity is not JSON"),
        (b'{"a": "caf\xe9"}\n', "not UTF-8 (byte 11 of the line is 0xe9); save the file as UTF-8"),
        (b'{"a": "x}\n', "not valid JSON (Invalid control character at at character 10)"),
        (b"{'a': 1}\n", "not valid JSON"),
        (b'{"a": "cut of', "the file ends in this line, perhaps it was cut off"),
        (b'{"a": "\\ud83d"}\n', "half of a surrogate pair"),
        (b"[" * 100_000 + b"\n", "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "digits"),
    ],
    ids=["NaN", "Infinity", "Latin-1", "open string", "single quotes", "cut off", "surrogate", "deep", "giant number"],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, reason):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"good": 1}\n\n' + line)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)

    rejects = records.Rejects(skip=True, max_bad_fraction=0.5)
    assert [value for _, value in read(path, rejects)] == [{"good": 1}]
    assert (rejects.num_bad, rejects.num_lines) == (1, 2)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(drawn, content):
    drawn.write_bytes(content)
    rejects = records.Rejects(skip=True)
    try:
        found = read(drawn, rejects)
    except DataError as error:
        assert "gzip" in str(error)
    else:
        assert len(found) + rejects.num_bad == rejects.num_lines


@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b[:300] + b"\xff\xff\xff\xff" + b[304:]])
def test_a_damaged_gzip_ends_the_stage_even_when_bad_lines_are_skipped(tmp_path, damage):
    path = tmp_path / "lines.jsonl.gz"
    lines = "".join(json.dumps({"n": number, "digest": hash(str(number) * 9)}) + "\n" for number in range(3000))
    path.write_bytes(damage(gzip.compress(lines.encode())))
    with pytest.raises(DataError, match="the gzip file is damaged behind line"):
        read(path, records.Rejects(skip=True, max_bad_fraction=1.0))


def test_bad_lines_are_counted_once_however_often_a_file_is_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 2}\n')
    rejects = records.Rejects(skip=True, max_bad_fraction=0.34)
    lines = records.Lines([path], rejects)
    assert list(lines) == list(lines)
    rejects.check()
    summary = rejects.summary()
    assert (summary["num_lines"], summary["num_rejects"]) == (3, 1)
    assert summary["first_rejects"][0]["place"] == f"{path}, line 2"


def test_too_large_a_share_of_bad_lines_is_refused(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 2}\n')
    rejects = records.Rejects(skip=True, max_bad_fraction=0.33)
    read(path, rejects)
    with pytest.raises(
        DataError, match=r"1 of 3 lines are bad, data.max_bad_fraction allows 0.33; .* line 2: not valid"
    ):
        rejects.check()


def test_only_the_first_rejects_are_listed(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("broken\n" * 500)
    rejects = records.Rejects(skip=True)
    read(path, rejects)
    assert rejects.summary()["num_rejects"] == 500
    assert len(rejects.summary()["first_rejects"]) == records.SHOWN_REJECTS


def test_find_takes_either_dress_and_refuses_both(tmp_path):
    with pytest.raises(DataError, match=r"documents.jsonl: no such file, gzipped or not; put it there, or name"):
        records.find(tmp_path, "documents")
    with pytest.raises(
        DataError, match=r"nowhere does not exist\); put it there, or .* `data: {source: ...}` in params"
    ):
        records.find(tmp_path / "nowhere", "documents")
    (tmp_path / "documents.jsonl.gz").touch()
    assert records.find(tmp_path, "documents") == tmp_path / "documents.jsonl.gz"
    (tmp_path / "documents.jsonl").touch()
    with pytest.raises(DataError, match=r"both stand there; keep one"):
        records.find(tmp_path, "documents")


def test_find_all_takes_a_file_or_the_files_of_a_folder_by_name(tmp_path):
    with pytest.raises(DataError, match="no JSONL file here"):
        records.find_all(tmp_path)
    for name in ("b.jsonl", "a.jsonl.gz", "notes.txt", "old.jsonl.bak"):
        (tmp_path / name).touch()
    assert records.find_all(tmp_path) == [tmp_path / "a.jsonl.gz", tmp_path / "b.jsonl"]
    assert records.find_all(tmp_path / "b.jsonl") == [tmp_path / "b.jsonl"]
