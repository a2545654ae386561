"""JSONL and JSON files as users bring them: every oddity is either passed over or named with file and place."""

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import jsonl
from pipeline.runtime.errors import DataError


def read(path, rejects=None):
    return list(jsonl.JsonLines([path], rejects or jsonl.Rejects()))


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
        assert "gzip" in str(error)
    else:
        assert len(found) + rejects.num_bad == rejects.num_lines


@pytest.mark.parametrize("damage", [lambda b: b[:-200], lambda b: b[:300] + b"\xff\xff\xff\xff" + b[304:]])
def test_a_damaged_gzip_ends_the_stage_even_when_bad_lines_are_skipped(tmp_path, damage):
    path = tmp_path / "lines.jsonl.gz"
    lines = "".join(json.dumps({"n": number, "digest": hash(str(number) * 9)}) + "\n" for number in range(3000))
    path.write_bytes(damage(gzip.compress(lines.encode())))
    with pytest.raises(DataError, match="the gzip file is damaged behind line"):
        read(path, jsonl.Rejects(skip=True, max_bad_fraction=1.0))


def test_bad_lines_are_counted_once_however_often_a_file_is_read(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text('{"a": 1}\nbroken\n{"a": 2}\n')
    rejects = jsonl.Rejects(skip=True, max_bad_fraction=0.34)
    lines = jsonl.JsonLines([path], rejects)
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
        DataError, match=r"1 of 3 lines are bad, data.max_bad_fraction allows 0.33; .* line 2: not valid"
    ):
        rejects.check()


def test_only_the_first_rejects_are_listed(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_text("broken\n" * 500)
    rejects = jsonl.Rejects(skip=True)
    read(path, rejects)
    assert rejects.summary()["num_rejects"] == 500
    assert len(rejects.summary()["first_rejects"]) == jsonl.SHOWN_REJECTS


def test_find_takes_either_dress_and_refuses_both(tmp_path):
    with pytest.raises(DataError, match=r"documents.jsonl: no such file, gzipped or not; put it there, or name"):
        jsonl.find(tmp_path, "documents")
    with pytest.raises(
        DataError, match=r"nowhere does not exist\); put it there, or .* `data: {source: ...}` in params"
    ):
        jsonl.find(tmp_path / "nowhere", "documents")
    (tmp_path / "documents.jsonl.gz").touch()
    assert jsonl.find(tmp_path, "documents") == tmp_path / "documents.jsonl.gz"
    (tmp_path / "documents.jsonl").touch()
    with pytest.raises(DataError, match=r"both stand there; keep one"):
        jsonl.find(tmp_path, "documents")


def entries(path, rejects=None):
    return list(jsonl.JsonEntries([path], rejects or jsonl.Rejects()))


@pytest.mark.parametrize("dress", [lambda b: b, gzip.compress, lambda b: b"\xef\xbb\xbf \n" + b + b"\r\n"])
def test_the_entries_of_a_list_and_of_an_object_in_many_dresses(tmp_path, dress):
    path = tmp_path / "file.json"
    path.write_bytes(dress(b'[{"a": "x\\ud83d\\ude00"},\n 1 , null]'))
    assert entries(path) == [
        (f"{path}, entry 1", {"a": "x\U0001f600"}), (f"{path}, entry 2", 1), (f"{path}, entry 3", None),
    ]  # fmt: skip
    path.write_bytes(dress(b'{"1.1" : {"a": [1]},"1.2":2, "\\n": 3}'))
    assert entries(path) == [
        (f"{path}, entry 1.1", ("1.1", {"a": [1]})), (f"{path}, entry 1.2", ("1.2", 2)),
        (f"{path}, entry '\\n'", ("\n", 3)),
    ]  # fmt: skip


@pytest.mark.parametrize("content", ["[]", "{}", " [ ] ", "{\n}"])
def test_a_file_without_entries_has_none(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_text(content)
    assert entries(path) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.lists(JSON) | st.dictionaries(st.text(), JSON), st.booleans(), st.sampled_from([None, 1]))
def test_what_json_writes_is_read_back_entry_by_entry(drawn, value, ascii_only, indent):
    drawn.write_text(json.dumps(value, ensure_ascii=ascii_only, indent=indent), encoding="utf-8")
    found = [item for _, item in entries(drawn)]
    assert found == (list(value.items()) if isinstance(value, dict) else value)


@settings(deadline=None)
@given(JSON, st.data())
def test_a_file_that_was_cut_off_anywhere_is_refused(drawn, value, data):
    whole = json.dumps({"first": value, "second": [value]}).encode()
    drawn.write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(
        DataError, match=r"^\S+lines.jsonl(, entry [^:]+)?: not valid JSON \(.* at line 1, character \d+"
    ):
        entries(drawn)


@settings(deadline=None)
@given(st.text(st.sampled_from('[]{}:,"1a \n\\'), max_size=20))
def test_entries_are_read_where_the_standard_library_reads_a_list_or_an_object(drawn, content):
    drawn.write_text(content)
    try:
        whole = json.loads(content)
        pairs = json.loads(content, object_pairs_hook=lambda pairs: pairs) if isinstance(whole, dict) else []
    except ValueError:
        whole = None
    if isinstance(whole, list):
        assert [value for _, value in entries(drawn)] == whole
    elif isinstance(whole, dict) and len(whole) == len(pairs):
        assert [value for _, value in entries(drawn)] == list(whole.items())
    else:
        with pytest.raises(DataError, match=r"not valid JSON|stands twice"):
            entries(drawn)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'{"a": 1,\n"b": {"c": [1, 2',
            ", entry b: not valid JSON (Expecting ',' delimiter at line 2, character 17 of",
        ),
        (b'[1, "cut of', ", entry 2: not valid JSON (Unterminated string starting at at line 1, character 5 of the fi"),
        (
            b"[1, 2",
            ", entry 2: not valid JSON (Expecting ',' or ']' at line 1, character 6 of the file), perhaps it was cut",
        ),
        (b"", ": not valid JSON (Expecting '[' or '{' at line 1, character 1 of the file), perhaps it was cut off"),
        (b'"text"', ": not valid JSON (Expecting '[' or '{' at line 1, character 1 of the file)"),
        (b'{"a": 1}\n{"a": 2}\n', ", entry a: not valid JSON (Extra data at line 2, character 1 of the file)"),
        (b'{"a": 1, "b": 2, "a": 3}', ", entry a: the key stands twice in the file; keep one of them"),
        (b'{"a": 1, "\\u0061": 3}', ", entry a: the key stands twice in the file"),
        (b"{1: 2}", ", entry 1: not valid JSON (Expecting '\"' at line 1, character 2"),
        (b"[1, 2,]", ", entry 3: not valid JSON (Expecting value at line 1, character 7"),
        (b'[1, {"x": NaN}]', ", entry 2: NaN is not JSON; write null, or leave the key out"),
        (b'["caf\xe9"]', ": not UTF-8 (byte 6 is 0xe9); save the file as UTF-8"),
        (b'["' + b'","'.join([b"x"] * 9) + b'"][', ": not valid JSON (Extra data"),
        (b"[1, " + b"[" * 100_000, ", entry 2: nested too deeply"),
        (b"[" + b"9" * 5000 + b"]", ", entry 1: Exceeds the limit"),
        (gzip.compress(b"[1, 2, 3]")[:-5], ": the gzip file is damaged behind line 0 ("),
    ],
)
def test_a_bad_file_ends_the_stage_with_its_place_even_when_bad_entries_are_skipped(tmp_path, content, message):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        entries(path, jsonl.Rejects(skip=True, max_bad_fraction=1.0))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_entry_with_half_a_surrogate_pair_is_rejected_alone(tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(b'{"a": 1, "b": "\\ud83d", "\\ud83d": 2, "c": 3}')
    with pytest.raises(DataError, match=r"file.json, entry b: a \\u escape is half of a surrogate pair"):
        entries(path)
    rejects = jsonl.Rejects(skip=True, max_bad_fraction=0.5)
    assert [value for _, value in entries(path, rejects)] == [("a", 1), ("c", 3)]
    assert rejects.summary()["first_rejects"][1]["place"] == f"{path}, entry '\\ud83d'"


def test_entries_are_counted_like_lines_however_often_they_are_read(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    paths[0].write_text("[1, 2, 3]")
    paths[1].write_text('{"x": 1}')
    rejects = jsonl.Rejects()
    found = jsonl.JsonEntries(paths, rejects)
    assert list(found) == list(found)
    assert rejects.num_lines == 4


def test_the_real_papers_and_questions_are_read_as_the_standard_library_reads_them(shared):
    for name in ("qasper/qasper_pieces", "hotpotqa/hotpot_dev_distractor_sample"):
        path = shared / f"data/{name}.json"
        whole = json.loads(path.read_text(encoding="utf-8"))
        assert [value for _, value in entries(path)] == (list(whole.items()) if isinstance(whole, dict) else whole)
