"""Extracts one file from a downloaded archive, and distrusts the whole archive (CVE-2007-4559, PEP 706).

Sizes are counted while bytes are unpacked, because headers may lie; nothing is in place before all checks are passed.
"""

import difflib
import errno
import gzip
import platform
import re
import shutil
import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from pipeline.common import files
from pipeline.runtime.errors import ConfigError, DataError, ResourceError, one_line

MAX_BYTES = 8 << 30
MAX_RATIO = 200  # texts reach 10; what zeros and repetitions can reach is 1000 and more
SMALL = 16 << 20  # bytes that any archive may hold: the padding of a tiny one compresses beyond all measure

_BLOCK = 1 << 20
_GZIP, _ZIP = b"\x1f\x8b", b"PK"
_ENCRYPTED = 0x1
_DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error,
    EOFError, ValueError, OverflowError, NotImplementedError,
)  # fmt: skip


class _Refused(Exception):
    """The reason why an archive is not unpacked."""


def extract_member(
    archive: Path, member: str, target: Path, *, max_bytes: int = MAX_BYTES, max_ratio: float = MAX_RATIO
) -> None:
    """Write the file `member` of a .tar.gz or .zip to `target`, whole or not at all.

    An archive may hold `max_bytes` unpacked, and `max_ratio` times its own size (SMALL is always allowed).

    Raises:
        ConfigError: the archive is whole, but has no such file.
        DataError: it is damaged, or something in it leads out, is a device, clashes, is encrypted or too large.
        ResourceError: `target` cannot be written.
    """
    limit = min(max_bytes, max(SMALL, int(max_ratio * archive.stat().st_size)))
    with archive.open("rb") as file:
        start = file.read(2)
    if start not in (_GZIP, _ZIP):
        raise DataError(f"{archive}: neither a .tar.gz nor a .zip (it begins with {start!r}); fetch it again")
    take = _from_tar if start == _GZIP else _from_zip
    try:
        with files.atomic(target) as temporary:
            take(archive, str(PurePosixPath(member)), temporary, limit)
    except _Refused as reason:
        raise DataError(f"{archive}: refused, {reason}; fetch it anew from a place you trust") from None
    except _DAMAGE as error:
        raise DataError(f"{archive}: damaged or cut off ({one_line(error)}); fetch it again") from None
    except OSError as error:
        # gzip raises it without a number for wrong checksums; EINVAL is a seek to where a damaged directory points.
        if error.errno in (None, errno.EINVAL):
            raise DataError(f"{archive}: damaged ({one_line(error)}); fetch it again") from None
        raise ResourceError(
            f"{target}: {error.strerror} while {member} was unpacked from {archive}; free the disk or make the folder "
            "writable, and run again"
        ) from None


def _from_tar(archive: Path, member: str, temporary: Path, limit: int) -> None:
    """Extract in one pass: write the member when it comes by, and check all others up to the end."""
    if not hasattr(tarfile, "data_filter"):
        raise ResourceError(
            f"{archive}: unpacking it safely needs Python 3.11.4 or newer, this is {platform.python_version()}; make "
            "the environment anew with PYTHON=..., or unpack it by hand and name the folder as data.source"
        )
    names = _Names()
    found = False
    with gzip.open(archive, "rb") as unpacked:
        counted = _Counted(unpacked, limit)
        with tarfile.open(fileobj=counted, mode="r|") as tar:  # type: ignore[call-overload]  # read is all it needs
            for info in tar:
                path = names.add(info.name, info.isdir())
                try:
                    tarfile.data_filter(info, str(temporary.parent / "unpacked"))
                except tarfile.SpecialFileError:
                    raise _Refused(f"its member {info.name!r} is a device") from None
                except tarfile.FilterError:
                    raise _Refused(f"its member {info.name!r} is a link that leads out of the archive") from None
                if info.issparse():
                    raise _Refused(f"its member {info.name!r} is a sparse file")
                if path == member and info.isreg():
                    found = True
                    source = tar.extractfile(info)
                    assert source is not None
                    _copy(source, temporary)
        while counted.read(_BLOCK):  # the checksum stands at the end
            pass
    if not found:
        raise _missing(archive, member, names.files)


def _from_zip(archive: Path, member: str, temporary: Path, limit: int) -> None:
    names = _Names()
    with zipfile.ZipFile(archive) as opened:
        infos = {}
        for info in opened.infolist():
            path = names.add(info.orig_filename, info.is_dir())
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"its member {info.filename!r} is a link or a device")
            if info.flag_bits & _ENCRYPTED:
                raise _Refused(f"its member {info.filename!r} is encrypted")
            limit = _left(limit, info.file_size)
            if not info.is_dir():
                infos[path] = info
        if member not in infos:
            raise _missing(archive, member, names.files)
        with opened.open(infos[member]) as source:  # reads no more bytes than its header tells, and checks them
            _copy(source, temporary)


def _left(limit: int, num_bytes: int) -> int:
    """Take bytes off the limit. Raises _Refused: there are more."""
    if num_bytes > limit:
        raise _Refused("it unpacks to more bytes than are allowed for one of its size")
    return limit - num_bytes


class _Counted:
    """A stream that refuses to yield more than `limit` bytes."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream, self._limit = stream, limit

    def read(self, size: int) -> bytes:
        block = self._stream.read(size)
        self._limit = _left(self._limit, len(block))
        return block


class _Names:
    """The names of an archive, each checked as it comes."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self._seen: dict[str, tuple[str, bool]] = {}

    def add(self, name: str, is_folder: bool) -> str:
        """Take `./` off a name. Raises _Refused: it is absolute, leads out of the archive, or another system takes it
        for an earlier one."""
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise _Refused(f"its member {name!r} has an absolute path or a drive")
        if ".." in path.parts:
            raise _Refused(f"its member {name!r} leads out of the archive")
        key = unicodedata.normalize("NFC", str(path)).casefold()
        before = self._seen.get(key)
        if before and (before != (str(path), is_folder) or not is_folder):
            raise _Refused(f"its members {before[0]!r} and {str(path)!r} clash where letter case does not count")
        self._seen[key] = (str(path), is_folder)
        if not is_folder:
            self.files.append(str(path))
        return str(path)


def _copy(source: IO[bytes], temporary: Path) -> None:
    with temporary.open("wb") as file:
        shutil.copyfileobj(source, file, _BLOCK)


def _missing(archive: Path, member: str, names: Sequence[str]) -> ConfigError:
    near = difflib.get_close_matches(member, names, n=3, cutoff=0.5) or sorted(names)[:3]
    has = f"it has {len(names):,} files, among them {', '.join(near)}" if names else "it has no files"
    return ConfigError(f"{archive}: no file {member!r} in it ({has}); correct `member` in the data bundle")
