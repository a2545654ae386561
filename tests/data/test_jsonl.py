"""JSON files as users bring them: every oddity is either passed over or named with file and place."""

import gzip
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import jsonl
from pipeline.runtime.errors import DataError


def read(path, rejects=None):
    return list(jsonl.JsonRows([path], rejects or jsonl.Rejects()))


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
        b'{"a": 1}\r{"b": 2}\r',
        b'{"a": 1}\n\xef\xbb\xbf{"b": 2}\n',
        '{"a": 1}\r\n{"b": 2}\r\n'.encode("utf-16"),
        '{"a": 1}\n{"b": 2}\n'.encode("utf-16-le"),
        '\ufeff[{"a": 1},{"b": 2}]'.encode("utf-32-be"),
        b' [{"a": 1},\n {"b": 2}]\n',
        b'\n{\n "a": 1\n}\n{\n "b": 2\n}\n',
        b'{"a": 1\n}{"b":\r\n2}',
    ],
    ids=[
        "plain",
        "no last line end",
        "BOM and CRLF",
        "blank lines",
        "CR alone",
        "files with BOMs joined",
        "UTF-16",
        "UTF-16 without BOM",
        "UTF-32 list",
        "list",
        "over several lines",
        "over several lines without a gap",
    ],
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
@given(st.lists(st.dictionaries(st.text(), st.text() | st.integers() | st.booleans() | st.none()), min_size=1))
def test_what_json_writes_is_read_back(drawn, objects):
    drawn.write_text("".join(json.dumps(found, ensure_ascii=False) + "\n" for found in objects), encoding="utf-8")
    assert values(drawn) == objects


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": NaN}\n', "NaN is not JSON; write null, or leave the key out"),
        (b'{"a": -Infinity}\n', "-Infinity is not JSON"),
        (b'{"a": "caf\xe9"}\n', "not UTF-8 (byte 11 of the line is 0xe9); save the file as UTF-8"),
        (b'{"a": "x}\n', "not valid JSON (Unterminated string starting at character 7)"),
        (b"{'a': 1}\n", "not valid JSON"),
        (b"id,text\n", "not valid JSON (Expecting value at character 1); each row is an object {...}"),
        (b'{"a": "cut of', "the file ends in this line, perhaps it was cut off"),
        (b'{"a": "\\ud83d"}\n', "half of a surrogate pair"),
        (
            b"[" * 100_000 + b"\n",
            "nested too deeply; a row needs no more than a list of objects of lists: write it so, or",
        ),
        (b'{"a": ' + b"9" * 5000 + b"}\n", "a number has thousands of digits; write it as a text, in double quotes"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}\n', 'the key "c" stands twice in one object; keep one of them'),
        (
            b'{"a": "he said "no" to it"}\n',
            "; perhaps a comma is missing before it, or a quote in a text has no backslash",
        ),
        (b'{"a": 1,}\n', "; remove the comma before }"),
        (b'{"a": [1, 2, ]}\n', "; remove the comma before ]"),
        (b'{"a": 1},\n', "; give each line one object with nothing behind it, or all of them as one list in [ ]"),
        (b'{"a": 1}{"b": 2}\n', "; give each line one object with nothing behind it"),
        (b"\0\0\0\0\n", "the file has NUL bytes, so it was damaged: fetch or write it again"),
    ],
    ids=[
        "NaN",
        "Infinity",
        "Latin-1",
        "open string",
        "single quotes",
        "a table",
        "cut off",
        "surrogate",
        "deep",
        "giant number",
        "key twice",
        "quote in a text",
        "comma in an object",
        "comma in a list",
        "comma behind a line",
        "two in a line",
        "NUL",
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, line, reason):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"good": 1}\n\n' + line)
    with pytest.raises(DataError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)

    rejects = jsonl.Rejects(skip=True, max_bad_fraction=0.5)
    assert [value for _, value in read(path, rejects)] == [{"good": 1}]
    assert (rejects.num_bad, rejects.num_lines) == (1, 2)


@settings(deadline=None)
@given(st.binary())
def test_any_bytes_are_read_or_refused(drawn, content):
    drawn.write_bytes(content)
    rejects = jsonl.Rejects(skip=True)
    try:
        found = read(drawn, rejects)
    except DataError as error:
        assert str(error).startswith(str(drawn)) and "\n" not in str(error)
    else:
        assert len(found) + rejects.num_bad == rejects.num_lines


@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b[:300] + b"\xff\xff\xff\xff" + b[304:]])
def test_a_damaged_gzip_ends_the_stage_even_when_bad_lines_are_skipped(tmp_path, damage):
    path = tmp_path / "lines.jsonl.gz"
    lines = "".join(json.dumps({"n": number, "digest": hash(str(number) * 9)}) + "\n" for number in range(3000))
    path.write_bytes(damage(gzip.compress(lines.encode())))
    with pytest.raises(DataError, match="the gzip file is damaged"):
        read(path, jsonl.Rejects(skip=True, max_bad_fraction=1.0))


def test_bad_lines_are_counted_once_however_often_a_file_is_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 2}\n')
    rejects = jsonl.Rejects(skip=True, max_bad_fraction=0.34)
    lines = jsonl.JsonRows([path], rejects)
    assert list(lines) == list(lines)
    rejects.check()
    summary = rejects.summary()
    assert (summary["num_lines"], summary["num_rejects"]) == (3, 1)
    assert summary["first_rejects"][0]["place"] == f"{path}, line 2"


def test_too_large_a_share_of_bad_lines_is_refused(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 2}\n')
    rejects = jsonl.Rejects(skip=True, max_bad_fraction=0.33)
    read(path, rejects)
    with pytest.raises(
        DataError,
        match=r"1 of 3 lines are bad, data.max_bad_fraction allows 0.33; mend them, or raise .* line 2: not valid",
    ):
        rejects.check()


def test_the_rows_of_a_parquet_file_whatever_its_name(tmp_path):
    rows = [{"id": str(number), "answers": {"text": ["x"], "answer_start": [number]}} for number in range(600)]
    for name in ("train.parquet", "train.jsonl"):
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / name)
        found = read(tmp_path / name)
        assert [row for _, row in found] == rows
        assert found[-1][0] == f"{tmp_path / name}, row 600"


def test_a_parquet_file_with_a_flipped_bit_is_read_or_refused(tmp_path):
    """Names of columns and texts may be no UTF-8 then."""
    rows = [{"id": str(number), "question": "who?", "answers": ["x", "y"]} for number in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    whole = (tmp_path / "rows.parquet").read_bytes()
    rng, refused = random.Random(2), []
    for _ in range(600):
        flipped = bytearray(whole)
        flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
        (tmp_path / "rows.parquet").write_bytes(flipped)
        try:
            read(tmp_path / "rows.parquet")
        except DataError as error:
            refused.append(str(error))
    assert any("codec can't decode" in message for message in refused)
    assert all("rows.parquet" in message and "\n" not in message for message in refused)


def test_only_the_first_rejects_are_listed(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("broken\n" * 500)
    rejects = jsonl.Rejects(skip=True)
    read(path, rejects)
    assert rejects.summary()["num_rejects"] == 500
    assert len(rejects.summary()["first_rejects"]) == jsonl.SHOWN_REJECTS


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(JSON, min_size=1) | st.dictionaries(st.text(), JSON), st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back_value_by_value(drawn, value, ascii_only, indent):
    drawn.write_text(json.dumps(value, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    assert values(drawn) == ([value] if isinstance(value, dict) else value)


@settings(deadline=None)
@given(JSON, st.data())
def test_a_file_that_was_cut_off_anywhere_is_refused(drawn, value, data):
    whole = json.dumps({"first": value, "second": [value]}).encode()
    drawn.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(
        DataError, match=r"^\S+lines.jsonl(, (line|entry) 1)?: (not valid JSON \(|there is not one row)"
    ):
        read(drawn)


def without_twins(pairs):
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def loaded(text):
    return json.loads(text, object_pairs_hook=without_twins)


def whole_list(text):
    try:
        return loaded(text)
    except ValueError:
        return None  # a list a line, which is no layout of ours


@settings(deadline=None)
@given(st.text(st.sampled_from('[]{}:,"1a \n\\'), max_size=20))
def test_rows_are_read_where_the_standard_library_reads_the_file_or_each_of_its_lines(drawn, content):
    drawn.write_text(content)
    try:
        whole = loaded(content)
        expected = whole if isinstance(whole, list) else [whole]
    except ValueError:
        try:
            expected = [loaded(line) for line in content.split("\n") if line.strip()]
        except ValueError:
            return  # values over several lines, or no JSON
    if expected and not (content.strip().startswith("[") and expected != whole_list(content)):
        assert values(drawn) == expected
    else:
        with pytest.raises(DataError, match=r"not one row|Extra data"):
            read(drawn)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'[{"a": 1},\n{"c": [1, 2',
            ", entry 2: not valid JSON (Expecting ',' delimiter at line 2, character 12 of the file), perhaps it was",
        ),
        (b'[1, "cut of', ", entry 2: not valid JSON (Unterminated string starting at line 1, character 5 of the fi"),
        (
            b"[1, 2",
            ", entry 2: not valid JSON (Expecting ',' or ']' at line 1, character 6 of the file), perhaps it was cut",
        ),
        (b"", ": there is not one row in the file; put some in, or take the file away"),
        (b" \n\xef\xbb\xbf\n", ": there is not one row in the file"),
        (b"[ ]", ": there is not one row in the file"),
        (
            b"[1, 2,]",
            ", entry 2: not valid JSON (Expecting value at line 1, character 7 of the file); remove the comma",
        ),
        (b'[1, {"x": NaN}]', ", entry 2: NaN is not JSON; write null, or leave the key out"),
        (b'[1, {"x": 1, "\\u0078": 2}]', ', entry 2: the key "x" stands twice in one object; keep one of them'),
        (b'\n["caf\xe9"]', ": not UTF-8 (byte 7 of the file is 0xe9); save the file as UTF-8"),
        (b'["' + b'","'.join([b"x"] * 9) + b'"][', ": not valid JSON (Extra data"),
        (b'\n{\n "a": 1\n}\n{\n "a" 2}', ", entry 2: not valid JSON (Expecting ':' delimiter at line 6, character 6"),
        (b"[1, " + b"[" * 100_000, ", entry 2: nested too deeply; a row needs no more than"),
        (b"[" + b"9" * 5000 + b"]", ", entry 1: a number has thousands of digits; write it as a text"),
        (gzip.compress(b"[1, 2, 3]", mtime=0)[:-5], ": the gzip file is damaged (Compressed"),
        ('{"a": 1}'.encode("utf-16")[:-1], ": not utf-16-le; save the file as UTF-8"),
        (
            b'[{"a": 1}\n{"b": 2}]',
            ", entry 1: not valid JSON (Expecting ',' or ']' at line 2, character 1 of the file); put a comma behind",
        ),
        (b'[{"a": 1},\n{"b": 2 "c": 3}]', "line 2, character 9 of the file); perhaps a comma is missing before it, or"),
        (b"PAR1\x15\x04", ": not a whole Parquet file ("),
        (b"PK\x03\x04\x15", ": this is a zip archive, not JSON; write it anew as JSON Lines, gzipped or not"),
    ],
)
def test_a_bad_file_ends_the_stage_with_its_place_even_when_bad_rows_are_skipped(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, jsonl.Rejects(skip=True, max_bad_fraction=1.0))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_value_of_a_list_with_half_a_surrogate_pair_is_rejected_alone(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'[1, "\\ud83d", {"\\ud83d": 2}, 3]')
    with pytest.raises(DataError, match=r"file.json, entry 2: a \\u escape is half of a surrogate pair"):
        read(path)
    rejects = jsonl.Rejects(skip=True, max_bad_fraction=0.5)
    assert [value for _, value in read(path, rejects)] == [1, 3]
    assert rejects.summary()["first_rejects"][1]["place"] == f"{path}, entry 3"


def test_the_values_of_lists_are_counted_like_lines_however_often_they_are_read(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    paths[0].write_text("[1, 2, 3]")
    paths[1].write_text('{"x": 1}')
    rejects = jsonl.Rejects()
    found = jsonl.JsonRows(paths, rejects)
    assert list(found) == list(found)
    assert rejects.num_lines == 4


def test_the_real_papers_and_questions_are_read_as_the_standard_library_reads_them(shared):
    for name in ("qasper/qasper_pieces", "hotpotqa/hotpot_dev_distractor_sample"):
        path = shared / f"data/{name}.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        assert values(path) == ([whole] if isinstance(whole, dict) else whole)


@pytest.mark.parametrize("text", ["", " \n", "\u200b\u200b", "\ufeff", "\u00ad\u2060", "\u3164", "\u2800", "\x00\x1b"])
def test_text_that_cannot_be_seen_is_blank(text):
    assert jsonl.is_blank(text)
    assert not jsonl.is_blank(text + "á" + text) and not jsonl.is_blank(text + "。")
