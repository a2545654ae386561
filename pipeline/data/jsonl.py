"""JSON and JSONL files as typed records; bad rows are counted and named."""

import difflib
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, TypeVar

from pydantic import AfterValidator, BaseModel, ValidationError
from pydantic_core import PydanticCustomError

from pipeline.runtime.errors import DataError

_BOM = b"\xef\xbb\xbf"
_GZIP = b"\x1f\x8b"
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
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
        """Remember how many lines that are not blank a file has."""
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
        """Counts, and the first rejects with place and reason."""
        first = [{"place": place, "reason": reason} for place, reason in self._reasons.items()][:SHOWN_REJECTS]
        return {"num_lines": self.num_lines, "num_rejects": self.num_bad, "first_rejects": first}


class JsonLines:
    """The lines of some JSONL files as (place, JSON value); each iteration reads the files anew, in bounded memory."""

    def __init__(self, paths: list[Path], rejects: Rejects) -> None:
        self._paths, self._rejects = paths, rejects

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """Blank lines, a byte order mark and Windows line ends are passed over.

        Raises:
            DataError: a file cannot be opened or is not whole; or a line is bad and bad lines are not skipped.
        """
        for path in self._paths:
            num_lines = 0
            for place, raw in _raw_lines(path):
                num_lines += 1
                try:
                    value = _json(raw)
                except (ValueError, RecursionError) as error:
                    self._rejects.reject(place, _reason(error, raw))
                else:
                    yield place, value
            self._rejects.count(path, num_lines)


class JsonEntries:
    """The entries of some files that hold one JSON list or object each, as (place, item) or (place, (key, value)).

    Each iteration reads the files anew; memory holds the text of one file and the values of one entry.
    """

    def __init__(self, paths: list[Path], rejects: Rejects) -> None:
        self._paths, self._rejects = paths, rejects

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        """JsonEntries count as lines. A byte order mark is passed over.

        Raises:
            DataError: a file cannot be opened, is not whole or not valid JSON, or a key stands in it twice; or half a
                surrogate pair stands in an entry and bad lines are not skipped.
        """
        for path in self._paths:
            num_entries = 0
            for place, raw, value in _raw_entries(path):
                num_entries += 1
                try:
                    _refuse_half_pairs(raw, value)
                except UnicodeEncodeError as error:
                    self._rejects.reject(place, _reason(error, raw))
                else:
                    yield place, value
            self._rejects.count(path, num_entries)


def find(folder: Path, name: str) -> Path:
    """The file `name`.jsonl or `name`.jsonl.gz in `folder`. Raises DataError when there is none, or both."""
    paths = [path for path in (folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz") if path.is_file()]
    if len(paths) == 2:
        raise DataError(f"{paths[0]} and {paths[1].name} both stand there; keep one of them")
    if not paths:
        raise DataError(f"{folder / name}.jsonl: no such file, gzipped or not{_elsewhere(folder)}")
    return paths[0]


def find_all(source: Path) -> list[Path]:
    """`source` itself if it is a file, else the JSONL files in it, gzipped or not. Raises DataError if it has none."""
    if source.is_file():
        return [source]
    paths = sorted(path for path in source.glob("*.jsonl*") if path.name.endswith((".jsonl", ".jsonl.gz")))
    if not paths:
        raise DataError(f"{source}: no JSONL file here, gzipped or not{_elsewhere(source)}")
    return paths


def _elsewhere(folder: Path) -> str:
    state = "" if folder.exists() else f" ({folder} does not exist)"
    return f"{state}; put it there, or name the right place with `data: {{source: ...}}` in params.yaml"


def _raw_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(place, bytes) of each line that is not blank, with its line end."""
    number = 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                content = raw.removeprefix(_BOM) if number == 1 else raw
                if content.strip():
                    yield f"{path}, line {number}", content
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged behind line {number} ({error}); fetch it again") from None


def _raw_entries(path: Path) -> Iterator[tuple[str, bytes, Any]]:
    """(place, JSON, value) of each entry of the list or object that the file is; in an object value is (key, value).

    The outermost brackets are taken off here: the standard library would read a whole file or nothing, keep the last of
    two equal keys, and could not say which entry is bad.
    """
    text = _whole_text(path)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    place, keys, number = str(path), set(), 0
    try:
        at = _after(text, 0)
        opening, closing = "{}" if text.startswith("{", at) else "[]"
        at = _after(text, at, opening)
        more = not text.startswith(closing, at)
        while more:
            number += 1
            place, start = f"{path}, entry {number}", at
            if opening == "{":
                _after(text, at, '"')
                key, at = decoder.raw_decode(text, at)
                place = f"{path}, entry {key if key.isprintable() else repr(key)}"
                if key in keys:
                    raise DataError(f"{place}: the key stands twice in the file; keep one of them")
                keys.add(key)
                at = _after(text, _after(text, at), ":")
            value, at = decoder.raw_decode(text, at)
            yield place, text[start:at].encode(), (key, value) if opening == "{" else value
            at = _after(text, at)
            more = not text.startswith(closing, at)
            if more:
                at = _after(text, at, ",")
        at = _after(text, at, closing)
        if at < len(text):
            raise json.JSONDecodeError("Extra data", text, at)
    except json.JSONDecodeError as error:
        cut = ", perhaps it was cut off" if error.pos >= len(text) or error.msg.startswith("Unterminated") else ""
        where = f"at line {error.lineno}, character {error.colno} of the file"
        raise DataError(f"{place}: not valid JSON ({error.msg} {where}){cut}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: {_reason(error, b'')}") from None


def _whole_text(path: Path) -> str:
    try:
        with _open(path) as file:
            raw = file.read().removeprefix(_BOM)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: the gzip file is damaged ({error}); fetch it again") from None
    try:
        return raw.decode("utf-8").rstrip(" \t\r\n")
    except UnicodeDecodeError as error:
        found = f"byte {error.start + 1} is 0x{raw[error.start]:02x}"
        raise DataError(f"{path}: not UTF-8 ({found}); save the file as UTF-8") from None


def _after(text: str, at: int, sign: str = "") -> int:
    """Where it goes on behind `sign`, which must stand at `at`, and blanks. Raises JSONDecodeError."""
    if not text.startswith(sign, at):
        raise json.JSONDecodeError(f"Expecting {sign!r}", text, at)
    at += len(sign)
    while text[at : at + 1] in (" ", "\n", "\r", "\t"):
        at += 1
    return at


def _open(path: Path) -> gzip.GzipFile | BinaryIO:
    """Gzipped or not is told by the first bytes: browsers unpack files and keep the name."""
    with path.open("rb") as file:
        gzipped = file.read(2) == _GZIP
    return gzip.open(path, "rb") if gzipped else path.open("rb")


def _json(raw: bytes) -> Any:
    value = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    _refuse_half_pairs(raw, value)
    return value


def _refuse_half_pairs(raw: bytes, value: Any) -> None:
    if _SURROGATE.search(raw):
        json.dumps(value, ensure_ascii=False).encode("utf-8")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON; write null, or leave the key out")


def _reason(error: Exception, raw: bytes) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 (byte {error.start + 1} of the line is 0x{raw[error.start]:02x}); save the file as UTF-8"
    if isinstance(error, UnicodeEncodeError):
        return "a \\u escape is half of a surrogate pair, which is no character"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        cut = "" if raw.endswith(b"\n") else "; the file ends in this line, perhaps it was cut off"
        return f"not valid JSON ({error.msg} at character {error.pos + 1}){cut}"
    return str(error)


Line = tuple[str, Any]
"""Where it stands ("<file>, line <number>") and what its JSON holds."""

Lines = Iterable[Line]
"""All lines of a source; may be iterated again from the start."""

Reject = Callable[[str, str], None]
"""Takes the place of a bad line and the reason; raises DataError, or returns when the line is to be left out."""

Record = TypeVar("Record", bound=BaseModel)


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be empty")
    return text


def _not_empty(items: list[Any]) -> list[Any]:
    if not items:
        raise PydanticCustomError("empty", "must not be an empty list")
    return items


Item = TypeVar("Item")
Text = Annotated[str, AfterValidator(_not_blank)]
Some = Annotated[list[Item], AfterValidator(_not_empty)]


def parse(lines: Lines, record: type[Record], reject: Reject) -> Iterator[tuple[str, Record]]:
    """Yield (place, record) of each line that is one; the others go to `reject` with every reason in one clause."""
    for place, value in lines:
        if not isinstance(value, dict):
            reject(place, f"expected an object {{...}}, found {_shown(value)}")
            continue
        # Keys that open with an underscore are the user's own notes.
        named = {key: item for key, item in value.items() if not key.startswith("_")}
        try:
            parsed = record.model_validate(named)
        except ValidationError as error:
            reject(place, "; ".join(_reasons(error, record, set(named))))
            continue
        yield place, parsed


def with_id(values: Lines) -> Iterator[Line]:
    """Official records, their `_id` under `id` too: for `parse` a key that opens with `_` is a note of the user's."""
    for place, value in values:
        yield place, {**value, "id": value["_id"]} if isinstance(value, dict) and "_id" in value else value


def _reasons(error: ValidationError, record: type[BaseModel], given: set[str]) -> Iterator[str]:
    items = error.errors(include_url=False)
    missing = [str(item["loc"][-1]) for item in items if item["type"] == "missing"]
    misspelt: dict[str, str] = {}
    for key in missing:
        strangers = sorted(given - set(record.model_fields))
        misspelt |= {near: key for near in difflib.get_close_matches(key, strangers, n=1, cutoff=0.5)}
    for item in items:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in item["loc"])[1:]
        if item["type"] == "extra_forbidden" and key not in misspelt:
            near = difflib.get_close_matches(key, record.model_fields, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]}?)" if near else ""
            yield f"{key} is not a key of this file{hint}; keys of your own open with an underscore"
        elif item["type"] == "missing":
            found = [near for near, wanted in misspelt.items() if wanted == key]
            yield f"{key} is missing" + (f" (rename {found[0]}?)" if found else "")
        elif item["type"] in ("blank", "empty"):
            yield f"{key} {item['msg']}"
        elif item["type"] != "extra_forbidden":
            yield f"{key} is {_shown(item['input'])}: {item['msg'][0].lower()}{item['msg'][1:]}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
