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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
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
    EOFError, ValueError, LookupError, OverflowError, NotImplementedError,
)  # fmt: skip


class _Refused(Exception):
    """The reason why an archive is not unpacked."""


Member = tuple[str, bool, Callable[[], IO[bytes] | None] | None]
"""Name, whether it is a folder, and a function that opens it (None: it is no regular file)."""


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
    members = (_tar_members if start == _GZIP else _zip_members)(archive, limit)
    try:
        with files.atomic(target) as temporary:
            names = _write(members, str(PurePosixPath(member)), temporary)
            if not temporary.exists():
                near = difflib.get_close_matches(member, names, n=3, cutoff=0.5) or sorted(names)[:3]
                has = f"it has {len(names):,} files, among them {', '.join(near)}" if names else "it has no files"
                raise ConfigError(f"{archive}: no file {member!r} in it ({has}); correct `member` in the data bundle")
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


def _tar_members(archive: Path, limit: int) -> Iterator[Member]:
    if not hasattr(tarfile, "data_filter"):
        raise ResourceError(
            f"{archive}: unpacking it safely needs Python 3.11.4 or newer, this is {platform.python_version()}; make "
            "the environment anew with PYTHON=..., or unpack it by hand and name the folder as data.source"
        )
    with gzip.open(archive, "rb") as unpacked:
        while block := unpacked.read(_BLOCK):  # up to the checksum, behind whatever the tar calls its end
            limit = _left(limit, len(block))
    with tarfile.open(archive, "r:gz") as tar:
        for info in tar:
            try:
                tarfile.data_filter(info, str(archive.parent / "unpacked"))
            except tarfile.SpecialFileError:
                raise _Refused(f"its member {info.name!r} is a device") from None
            except tarfile.FilterError:
                link = "is a link that " if info.issym() or info.islnk() else ""
                raise _Refused(f"its member {info.name!r} {link}leads out of the archive") from None
            if info.issparse():
                raise _Refused(f"its member {info.name!r} is a sparse file")
            yield info.name, info.isdir(), partial(tar.extractfile, info) if info.isreg() else None


def _zip_members(archive: Path, limit: int) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _Refused(f"its member {info.filename!r} is a link or a device")
            if info.flag_bits & _ENCRYPTED:
                raise _Refused(f"its member {info.filename!r} is encrypted")
            limit = _left(limit, info.file_size)
            # Reads no more bytes than its header tells, and checks them.
            yield info.orig_filename, info.is_dir(), None if info.is_dir() else partial(opened.open, info)


def _left(limit: int, num_bytes: int) -> int:
    """Take bytes off the limit. Raises _Refused: there are more."""
    if num_bytes > limit:
        raise _Refused("it unpacks to more bytes than are allowed for one of its size")
    return limit - num_bytes


def _write(members: Iterable[Member], wanted: str, temporary: Path) -> list[str]:
    """Write the wanted file, if it is there; return the names of all files, without `./`.

    Raises:
        _Refused: a name is absolute, leads out of the archive, or another system takes it for an earlier one.
    """
    seen: dict[str, tuple[str, bool]] = {}
    for name, is_folder, open_member in members:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or re.match(r"[A-Za-z]:", name) or "\0" in name:
            raise _Refused(f"its member {name!r} has an absolute path or a drive")
        if ".." in path.parts:
            raise _Refused(f"its member {name!r} leads out of the archive")
        key = unicodedata.normalize("NFC", str(path)).casefold()
        before = seen.get(key)
        if before and (before != (str(path), is_folder) or not is_folder):
            raise _Refused(f"its members {before[0]!r} and {str(path)!r} clash where letter case does not count")
        seen[key] = (str(path), is_folder)
        if str(path) == wanted and open_member and (source := open_member()):
            with source, temporary.open("wb") as file:
                shutil.copyfileobj(source, file, _BLOCK)
    return [name for name, is_folder in seen.values() if not is_folder]
