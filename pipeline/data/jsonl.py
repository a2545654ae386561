"""JSON and JSONL files as typed records; bad rows are counted and named."""

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from pipeline.runtime.errors import DataError, did_you_mean

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_BLANKS = re.compile(r"[ \n\r\t]*")
SHOWN_REJECTS = 20


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
                f"{self._max_bad_fraction:g}; the first is {place}: {reason}"
            )

    def summary(self) -> dict[str, Any]:
        """Collect the counts, and the first rejects with place and reason."""
        first = [{"place": place, "reason": reason} for place, reason in self._reasons.items()][:SHOWN_REJECTS]
        return {"num_lines": self.num_lines, "num_rejects": self.num_bad, "first_rejects": first}


Line = tuple[str, Any]
"""The place of a value ("<file>, line <number>") and the value that its JSON holds."""

Lines = Iterable[Line]
"""All lines of a source; may be iterated again from the start."""

Reject = Callable[[str, str], None]
"""Takes the place of a bad line and the reason; raises DataError, or returns when the line is to be left out."""


class JsonLines:
    """The lines of some JSONL files as (place, JSON value); each iteration reads the files anew, in bounded memory.

    Blank lines, a byte order mark and Windows line ends are passed over.
    """

    def __init__(self, paths: list[Path], rejects: Rejects) -> None:
        self._paths, self._rejects = paths, rejects

    def __iter__(self) -> Iterator[Line]:
        """Yield all values and count the lines.

        Raises:
            DataError: a file cannot be opened or is not whole; or a line is bad and bad lines are not skipped.
        """
        for path in self._paths:
            num_lines = 0
            for place, value, problem in self._read(path):
                num_lines += 1
                if problem:
                    self._rejects.reject(place, problem)
                else:
                    yield place, value
            self._rejects.count(path, num_lines)

    def _read(self, path: Path) -> Iterator[tuple[str, Any, str]]:
        """Yield (place, value, what is wrong with it)."""
        return _lines(path)


class JsonEntries(JsonLines):
    """The entries of files that hold one JSON list or object each, as (place, item) or (place, (key, value)).

    Entries count as lines. Memory holds the text of one file and the values of one entry. An entry is bad if half a
    surrogate pair stands in it; a file that is not valid JSON, or has a key twice, raises DataError in any case.
    """

    def _read(self, path: Path) -> Iterator[tuple[str, Any, str]]:
        return _entries(path)


class JsonByName(JsonLines):
    """The lines of files that have `.jsonl` in their name, and the entries of all others."""

    def _read(self, path: Path) -> Iterator[tuple[str, Any, str]]:
        return _lines(path) if ".jsonl" in path.name else _entries(path)


def refuse_twice(place_of: dict[str, str], place: str, what: str, key: str = "") -> None:
    """Remember the place of `what`, by `key` or else by its name. Raises DataError: it has a place already."""
    if (key or what) in place_of:
        raise DataError(f"{place}: {what} already stands in {place_of[key or what]}; keep one of them")
    place_of[key or what] = place


def find(folder: Path, name: str) -> Path:
    """Find the file `name`.jsonl or `name`.jsonl.gz in `folder`. Raises DataError when there is none, or both."""
    paths = [path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file()]
    if len(paths) == 2:
        raise DataError(f"{paths[0]} and {paths[1].name} both stand there; keep one of them")
    if not paths:
        state = "" if folder.exists() else f" ({folder} does not exist)"
        raise DataError(
            f"{folder / name}.jsonl: no such file, gzipped or not{state}; put it there, or name the right place with "
            "`data: {source: ...}` in params.yaml"
        )
    return paths[0]


def _lines(path: Path) -> Iterator[tuple[str, Any, str]]:
    for number, raw in _binary_lines(path):
        if not raw.strip():
            continue
        value, problem = None, ""
        try:
            text = raw.decode("utf-8")
            value = json.loads(text, parse_constant=_refuse_constant)
            problem = _half_pair(text, value)
        except (ValueError, RecursionError) as error:
            problem = _reason(error, raw)
        yield f"{path}, line {number}", value, problem


def _entries(path: Path) -> Iterator[tuple[str, Any, str]]:
    """Take off the outermost brackets and decode what is between them, entry by entry.

    The standard library would read a whole file or nothing, keep the last of two equal keys, and could not tell which
    entry is bad.
    """
    text = _whole_text(path)
    decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
    place, number, keys = str(path), 0, set()
    try:
        opening, at = _sign(text, 0, "[", "{")
        closing = "]" if opening == "[" else "}"
        sign = ","
        if text.startswith(closing, at):
            sign, at = _sign(text, at, closing)
        while sign == ",":
            number += 1
            place, start = f"{path}, entry {number}", at
            if opening == "{":
                _sign(text, at, '"')
                key, at = decode(text, at)
                place = f"{path}, entry {key if key.isprintable() else repr(key)}"
                if key in keys:
                    raise DataError(f"{place}: the key stands twice in the file; keep one of them")
                keys.add(key)
                _, at = _sign(text, at, ":")
            value, at = decode(text, at)
            entry = (key, value) if opening == "{" else value
            yield place, entry, _half_pair(text[start:at], entry)
            sign, at = _sign(text, at, ",", closing)
        if at < len(text):
            raise json.JSONDecodeError("Extra data", text, at)
    except json.JSONDecodeError as error:
        cut = ", perhaps it was cut off" if error.pos >= len(text) or error.msg.startswith("Unterminated") else ""
        where = f"at line {error.lineno}, character {error.colno} of the file"
        raise DataError(f"{place}: not valid JSON ({error.msg} {where}){cut}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {_reason(error, b'')}") from None


def _sign(text: str, at: int, *signs: str) -> tuple[str, int]:
    """Find the sign that stands at `at`, behind blanks, and where the text goes on. Raises JSONDecodeError: none."""
    at = _BLANKS.match(text, at).end()  # type: ignore[union-attr]  # matches anywhere
    if text[at : at + 1] not in signs:
        raise json.JSONDecodeError(f"Expecting {' or '.join(map(repr, signs))}", text, at)
    return text[at], _BLANKS.match(text, at + 1).end()  # type: ignore[union-attr]


def _whole_text(path: Path) -> str:
    raw = b"".join(line for _, line in _binary_lines(path))
    try:
        return raw.decode("utf-8").rstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: {_reason(error, raw).replace(' of the line', '')}") from None


def _binary_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield (number, line with its end), without a byte order mark; the first bytes tell whether the file is gzipped,
    because browsers unpack files and keep the name."""
    number = 0
    with path.open("rb") as file:
        gzipped = file.read(2) == _GZIP
    try:
        with gzip.open(path, "rb") if gzipped else path.open("rb") as lines:
            for number, raw in enumerate(lines, start=1):
                yield number, raw.removeprefix(_BOM) if number == 1 else raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged behind line {number} ({error}); fetch it again") from None


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


def _reason(error: Exception, raw: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x}); save the file as UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        cut = "" if raw.endswith(b"\n") else "; the file ends in this line, perhaps it was cut off"
        return f"not valid JSON ({error.msg} at character {error.pos + 1}){cut}"
    return str(error)


class OfficialRecord(BaseModel):
    """An object of a benchmark's official file; keys that no reader needs are passed over."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


Parsed = TypeVar("Parsed", bound=BaseModel)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise ValueError("must not be an empty list")
    return items


Item = TypeVar("Item")
Text = Annotated[str, AfterValidator(_not_blank)]
Some = Annotated[list[Item], AfterValidator(_not_empty)]


def parse(lines: Lines, record: type[Parsed], reject: Reject) -> Iterator[tuple[str, Parsed]]:
    """Yield (place, record) of each line that is one; the others go to `reject` with every reason in one clause."""
    for place, value in lines:
        if not isinstance(value, dict):
            reject(place, f"expected an object {{...}}, found {shown(value)}")
            continue
        try:
            parsed = record.model_validate(value)
        except ValidationError as error:
            reject(place, "; ".join(_reasons(error, record, set(value))))
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
            yield f"{key} is missing" + (f" (rename {near[0]}?)" if near else "")
        elif item["type"] == "value_error":  # of a validator of ours
            yield f"{key} {item['ctx']['error']}"
        elif item["type"] != "extra_forbidden":
            yield f"{key} is {shown(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def shown(value: Any) -> str:
    """Write a value of a file in a message, with at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
