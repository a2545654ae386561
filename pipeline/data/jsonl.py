"""JSON and Parquet files as typed rows, whatever their layout; bad rows are counted and named."""

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import regex
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator

from pipeline.runtime.errors import DataError, did_you_mean, one_line

_GZIP = b"\x1f\x8b"
_OTHER_FORMATS = {
    b"\0\0\0\0": "a damaged file of NUL bytes", b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip
_BOM = "\ufeff"
_NO_COMMA = "Expecting ',' or ']'"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \n\r\t]*")
_VISIBLE = regex.compile(r"[^\p{Z}\p{Cc}\p{Cf}\p{Default_Ignorable_Code_Point}\u2800]")
SHOWN_REJECTS = 20
SHOWN_REASONS = 6  # of one row
TOO_DEEP = "nested too deeply; a row needs no more than a list of objects of lists: write it so, or take it out"


class Rejects:
    """Bad lines: the first one ends the stage, or each is counted and left out, up to a share of all lines."""

    def __init__(self, skip: bool = False, max_bad_fraction: float = 0.0, hint: str = "") -> None:
        """`hint` follows the message of a bad line that ends the stage: what else the user can do."""
        self._skip, self._max_bad_fraction, self._hint = skip, max_bad_fraction, hint
        self._reasons: dict[str, str] = {}
        self._num_lines: dict[Path, int] = {}

    def reject(self, place: str, reason: str) -> None:
        """Count the line at `place`, once however often it is read. Raises DataError unless bad lines are skipped."""
        if not self._skip:
            raise DataError(f"{place}: {reason}{self._hint}")
        self._reasons.setdefault(place, reason)

    def count(self, path: Path, num_lines: int) -> None:
        """Remember how many lines of a file are not blank."""
        self._num_lines[path] = num_lines

    @property
    def num_lines(self) -> int:
        return sum(self._num_lines.values())

    @property
    def num_bad(self) -> int:
        return len(self._reasons)

    def check(self) -> None:
        """Raises DataError when the share of bad lines is above the allowed one."""
        if self.num_bad > self._max_bad_fraction * self.num_lines:
            place, reason = next(iter(self._reasons.items()))
            raise DataError(
                f"{self.num_bad:,} of {self.num_lines:,} lines are bad, data.max_bad_fraction allows "
                f"{self._max_bad_fraction:g}; mend them, or raise data.max_bad_fraction; the first is {place}: {reason}"
            )

    def summary(self) -> dict[str, Any]:
        """Collect the counts, and the first rejects with place and reason."""
        first = [{"place": place, "reason": reason} for place, reason in self._reasons.items()][:SHOWN_REJECTS]
        return {"num_lines": self.num_lines, "num_rejects": self.num_bad, "first_rejects": first}


Line = tuple[str, Any]
"""The place of a value ("<file>, line <number>", "<file>, entry <number>") and the value that its JSON holds."""

Lines = Iterable[Line]
"""All lines of a source; may be iterated again from the start."""

Reject = Callable[[str, str], None]
"""Takes the place of a bad line and the reason; raises DataError, or returns when the line is to be left out."""


class JsonRows:
    """The rows of some files, JSON or Parquet, as (place, JSON value); each iteration reads the files anew.

    A file's first line tells its layout: one value a line (JSON Lines, read in bounded memory), or one list of values,
    or values over several lines, as jq prints them (memory holds the file's text and one value). The file is gzipped
    or not, UTF-8, or UTF-16 or UTF-32; all line ends, blank lines and byte order marks are passed over. An object with
    a key twice is no valid row. Where a list or values over several lines are not valid JSON, the whole file is bad.
    """

    def __init__(self, paths: list[Path], rejects: Rejects) -> None:
        self._paths, self._rejects = paths, rejects

    def __iter__(self) -> Iterator[Line]:
        """Yield all values and count the rows.

        Raises:
            DataError: a file is not whole or has no row; or a row is bad and bad rows are not skipped.
        """
        for path in self._paths:
            num_rows = 0
            for place, value, problem in _rows(path):
                num_rows += 1
                if problem:
                    self._rejects.reject(place, problem)
                else:
                    yield place, value
            if not num_rows:
                raise DataError(f"{path}: there is not one row in the file; put some in, or take the file away")
            self._rejects.count(path, num_rows)


def refuse_twice(place_of: dict[str, str], place: str, what: str, key: str = "") -> None:
    """Remember the place of `what`, by `key` or else by its name. Raises DataError: it has a place already."""
    if (key or what) in place_of:
        raise DataError(f"{place}: {what} already stands in {place_of[key or what]}; keep one of them")
    place_of[key or what] = place


def _rows(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Yield (place, value, what is wrong with it)."""
    with path.open("rb") as raw:
        start = raw.read(6)
    if start.startswith(b"PAR1") or path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise DataError(f"{path}: this is {name}, not JSON; write it anew as JSON Lines, gzipped or not")
    # The first bytes tell whether it is gzipped, because browsers unpack files and keep the name.
    open_file = gzip.open if start.startswith(_GZIP) else open
    number = 0
    try:
        with open_file(path, "rb") as opened:
            encoding = json.detect_encoding(opened.read(4))
        with open_file(path, "rt", encoding=encoding, errors="surrogateescape") as lines:
            is_first = True
            for number, line in enumerate(lines, start=1):
                text = line.strip().lstrip(_BOM)
                if text and is_first and _goes_on(text):
                    yield from _values(path, "\n" * (number - 1) + line.lstrip(_BOM) + lines.read())
                    return
                if text:
                    is_first = False
                    yield f"{path}, line {number}", *_parsed(text, line.endswith("\n"))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged{_behind(number)} ({error}); fetch it again") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not {error.encoding}{_behind(number)}; save the file as UTF-8") from None


def _behind(number: int) -> str:
    return f" behind line {number}" if number else ""


def _parquet_rows(path: Path) -> Iterator[tuple[str, Any, str]]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            rows = (row for batch in file.iter_batches(batch_size=256) for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}, row {number}", row, ""
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({one_line(error)}); fetch or write it again") from None


def _goes_on(line: str) -> bool:
    """Tell by a file's first line whether its values are not one a line."""
    try:
        _JSON.decode(line)
    except json.JSONDecodeError as error:
        return line.startswith("[") or error.pos >= len(line)
    except (ValueError, RecursionError):
        pass
    return line.startswith("[")


def _parsed(text: str, is_ended: bool) -> tuple[Any, str]:
    """Return the value of a line and what is wrong with it."""
    try:
        if not (problem := _bad_byte(text, "line")):
            value = _JSON.decode(text)
            return value, _half_pair(text, value)
    except json.JSONDecodeError as error:
        cut = "" if is_ended else "; the file ends in this line, perhaps it was cut off"
        problem = f"not valid JSON ({_fault(error)} at character {error.pos + 1}){_mend(error)}{cut}"
    except (ValueError, RecursionError) as error:
        problem = _reason(error)
    return None, problem


def _values(path: Path, text: str) -> Iterator[tuple[str, Any, str]]:
    """Decode the values of one list, or values that follow each other, one by one.

    The standard library would read a whole file or nothing, and could not tell which value is bad.
    """
    if problem := _bad_byte(text, "file"):
        raise DataError(f"{path}: {problem}")
    at, number, place = _behind_blanks(text, 0), 0, str(path)
    closing = "]" if text[at] == "[" else ""
    try:
        if closing:
            at = _behind_blanks(text, at + 1)
        while text[at : at + 1] != closing:
            number += 1
            place, start = f"{path}, entry {number}", at
            value, at = _JSON.raw_decode(text, at)
            yield place, value, _half_pair(text[start:at], value)
            at = _behind_blanks(text, at)
            if closing and text[at : at + 1] == ",":
                at = _behind_blanks(text, at + 1)
                if text[at : at + 1] == closing:
                    raise json.JSONDecodeError("Expecting value", text, at)
            elif closing and text[at : at + 1] != closing:
                raise json.JSONDecodeError(_NO_COMMA, text, at)
        if _behind_blanks(text, at + 1) < len(text):
            raise json.JSONDecodeError("Extra data", text, _behind_blanks(text, at + 1))
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        cut = ", perhaps it was cut off" if is_cut else _mend(error)
        where = f"at line {error.lineno}, character {error.colno} of the file"
        raise DataError(f"{place}: not valid JSON ({_fault(error)} {where}){cut}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {_reason(error)}") from None


def _behind_blanks(text: str, at: int) -> int:
    return _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # matches anywhere


def _bad_byte(text: str, whole: str) -> str:
    """Name the first byte that is not UTF-8 (it was decoded to half a surrogate pair); empty: none."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        place = len(text[: error.start].encode()) + 1
        found = ord(text[error.start]) & 0xFF
        return f"not UTF-8 (byte {place} of the {whole} is 0x{found:02x}); save the file as UTF-8"
    return ""


def _half_pair(text: str, value: Any) -> str:
    """Tell whether an escape in the text is half of a surrogate pair; empty: none."""
    try:
        if _SURROGATE.search(text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return "a \\u escape is half of a surrogate pair, which is no character"
    return ""


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null, or leave the key out")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} stands twice in one object; keep one of them")
    return found


_JSON = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _fault(error: json.JSONDecodeError) -> str:
    return error.msg.removesuffix(" at")  # our messages go on with the place


def _mend(error: json.JSONDecodeError) -> str:
    """Tell what to do about the faults that people make when they write JSON by hand."""
    before, behind = error.doc[: error.pos].rstrip(), error.doc[error.pos : error.pos + 1]
    if "\0" in error.doc:
        return "; the file has NUL bytes, so it was damaged: fetch or write it again"
    if before.endswith(",") and behind in ("]", "}"):
        return f"; remove the comma before {behind}"
    if error.msg == _NO_COMMA and behind:
        return "; put a comma behind this entry"
    if error.msg == "Expecting ',' delimiter" and behind:
        return "; perhaps a comma is missing before it, or a quote in a text has no backslash"
    if error.msg == "Expecting value" and not before:
        return "; each row is an object {...}"
    if error.msg == "Extra data":
        return "; give each line one object with nothing behind it, or all of them as one list in [ ]"
    return "; JSON has double quotes" if behind == "'" else ""


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return TOO_DEEP
    if "integer string conversion" in str(error):  # Python's message advises to change Python
        return 'a number has thousands of digits; write it as a text, in double quotes: "..."'
    return str(error)


class OfficialRecord(BaseModel):
    """An object of a file; keys that no reader needs are passed over, and so is null in a key that may be left out."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict) or None not in value.values():
            return value
        needed = {name for name, field in cls.model_fields.items() if field.is_required()}
        return {key: item for key, item in value.items() if item is not None or key in needed}


Parsed = TypeVar("Parsed", bound=BaseModel)


def is_blank(text: str) -> bool:
    """Tell whether nothing of the text can be seen: blanks, control characters, zero-width and filling ones."""
    return not _VISIBLE.search(text)


def _number_as_text(value: Any) -> Any:
    return str(value) if type(value) is int else value


def _not_blank(text: str) -> str:
    if is_blank(text):
        raise ValueError("must not be empty" + (" (no character of it can be seen)" if text.strip() else ""))
    return text


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise ValueError("must not be an empty list")
    return items


Item = TypeVar("Item")
Text = Annotated[str, BeforeValidator(_number_as_text), AfterValidator(_not_blank)]
"""Text that can be seen; a whole number counts as its digits."""
Some = Annotated[list[Item], AfterValidator(_not_empty)]


def parse(lines: Lines, record: type[Parsed], reject: Reject) -> Iterator[tuple[str, Parsed]]:
    """Yield (place, record) of each line that is one; the others go to `reject` with their reasons in one clause."""
    for place, value in lines:
        if not isinstance(value, dict):
            reject(place, f"expected an object {{...}}, found {shown(value)}")
            continue
        try:
            parsed = record.model_validate(value)
        except ValidationError as error:
            reasons = list(_reasons(error, record, set(value)))
            more = f"; and {len(reasons) - SHOWN_REASONS:,} more" if len(reasons) > SHOWN_REASONS else ""
            reject(place, "; ".join(reasons[:SHOWN_REASONS]) + more)
            continue
        yield place, parsed


def _reasons(error: ValidationError, record: type[BaseModel], given: set[str]) -> Iterator[str]:
    strangers = sorted(given - set(record.model_fields))
    misspelt = set()
    for item in error.errors(include_url=False):  # missing keys come before those that are not known
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])[1:]
        if item["type"] == "extra_forbidden" and key not in misspelt:
            hint = did_you_mean(key, record.model_fields)
            yield f"{key} is not a key of this file{hint}; keys of your own open with an underscore"
        elif item["type"] == "missing":
            near = difflib.get_close_matches(str(item["loc"][-1]), strangers, n=1, cutoff=0.5)
            misspelt.update(near)
            yield f"{key} is missing" + (
                f" (rename {near[0] if near[0].isidentifier() else shown(near[0])}?)" if near else ""
            )
        elif item["type"] == "value_error":  # of a validator of ours
            yield f"{key} {item['ctx']['error']}"
        elif item["type"] != "extra_forbidden":
            expected = _EXPECTED.get(item["type"], f"{item['msg'][0].lower()}{item['msg'][1:]}")
            yield f"{key} is {shown(item['input'])}: {expected}"


_EXPECTED = {
    "string_type": 'expected a text, in double quotes: "..."',
    "list_type": "expected a list: [...]",
    "model_type": "expected an object: {...}",
    "bool_type": "expected true or false",
}


def shown(value: Any) -> str:
    """Write a value of a file in a message as JSON, with at most 60 characters."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=repr)
        text = text if text.isprintable() else json.dumps(value, default=repr)
    except RecursionError:
        text = "a value nested very deeply"
    return text if len(text) <= 60 else f"{text[:57]}..."
