"""The digest that a Parquet file holds of itself, in its key-value metadata: one changed bit anywhere breaks it."""

import hashlib
import os
from functools import lru_cache, partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

KEY = "content_sha256"
BLANK = "0" * 64
"""Stands in the place of the digest while the file is digested, because no file can hold its own digest."""
_BEFORE = KEY.encode() + bytes([0x18, len(BLANK)])  # in Thrift: the key, then a text of this length
_TAIL = 1 << 16  # bytes of the end of a file that hold its key-value metadata
_BLOCK = 1 << 20


def put(path: Path) -> None:
    """Put the digest of the whole file in its place in the file's metadata."""
    with path.open("rb+") as file:
        place = place_of(file)
        assert place is not None, path
        digest = sha256(file, place)
        file.seek(place)
        file.write(digest.encode())


def place_of(file: BinaryIO) -> int | None:
    """Find the byte at which the digest begins: behind the last such key, as the texts of rows stand before it."""
    start = max(file.seek(0, os.SEEK_END) - _TAIL, 0)
    file.seek(start)
    found = file.read().rfind(_BEFORE)
    return None if found < 0 else start + found + len(_BEFORE)


def sha256(file: BinaryIO, place: int) -> str:
    """Digest the file as it was before its digest was put in `place`."""
    total = hashlib.sha256()
    file.seek(0)
    for block in iter(lambda: file.read(min(_BLOCK, place - file.tell())), b""):
        total.update(block)
    total.update(BLANK.encode())
    file.seek(place + len(BLANK))
    for block in iter(partial(file.read, _BLOCK), b""):
        total.update(block)
    return total.hexdigest()


class Digests(NamedTuple):
    """The digest of a file, and the one that stands in it; None where none does."""

    found: str
    expected: str | None


def digests(path: Path) -> Digests:
    state = path.stat()
    return _digests_of(path.resolve(), state.st_mtime_ns, state.st_size, state.st_ino)


@lru_cache(maxsize=256)
def _digests_of(path: Path, *modification: int) -> Digests:
    """Digest a file once for each `modification` of it: hashing goes through all of its bytes."""
    with path.open("rb") as file:
        place = place_of(file)
        if place is None:
            return Digests("none", None)
        file.seek(place)
        expected = file.read(len(BLANK)).decode("ascii", errors="backslashreplace")
        return Digests(sha256(file, place), expected)
