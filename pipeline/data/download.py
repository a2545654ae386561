"""The official files of a benchmark: taken from a folder or downloaded once, and held to their pins. No torch.

Downloads stand in FOCUS_CACHE below the pin of their bytes (else a digest of their URL), so that versions never mix.
A file gets its name only when it is whole and fits its pin; until then it is a `.part`, which the next run resumes.
"""

import glob
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from pipeline.common import files
from pipeline.data import archives
from pipeline.runtime.errors import ConfigError, DataError, ResourceError
from pipeline.runtime.settings import DataFile

ATTEMPTS = 4  # at a server that answers with its own errors or hangs up
WAIT_SECONDS = 2.0  # before the second attempt, twice as long before each further one
WHOLE = {"Accept-Encoding": "identity"}  # a server that packs its answers could not be resumed
BLOCK = 1 << 20
SHOWN_FILES = 8


@dataclass(frozen=True)
class Located:
    """A file that is there and fits its pins, with both digests for those that have none."""

    path: Path
    sha256: str
    git_blob: str
    num_bytes: int


def locate(file: DataFile, source: Path | None) -> Located:
    """The file in the folder `source`; without a folder, in the cache of downloads, downloaded if need be.

    Raises:
        ConfigError: no folder and no URL, or a member that its archive does not have.
        DataError: not in the folder, not to be had from its URL, or other bytes than those pinned.
        ResourceError: the cache cannot be written, or its disk is too full.
    """
    if source is not None:
        return _in_folder(file, source)
    if file.url is None:
        raise ConfigError(
            f"data.files: {file.name} has no url; set `data: {{source: ...}}` to the folder that holds it"
        )
    key = file.sha256 or file.git_blob or _digest(f"{file.url} {file.member or ''}")
    place = files.cache_folder() / "downloads" / key / file.name
    if found := _whole(file, place):
        return found
    with _locked(place):
        if found := _whole(file, place):  # another process was first
            return found
        if file.member is None:
            part = _download(file.url, place, _pin(file), file.sha256 or file.git_blob)
            return _settle(file, part, place)
        return _take_out(file, file.url, file.member, place)


def _in_folder(file: DataFile, source: Path) -> Located:
    path = source / file.name
    if not path.is_file():
        names = sorted(found.name for found in source.glob("*") if found.is_file())
        has = f"it has {', '.join(names[:SHOWN_FILES]) or 'no files'}" if source.is_dir() else f"{source} is no folder"
        raise DataError(
            f"{path}: no such file ({has}); put it there, or name the right folder with `data: {{source: ...}}` or "
            "your files with `data: {files: ...}` in params.yaml"
        )
    found = _read(path)
    if wrong := _wrong(file, found):
        raise DataError(f"{path}: {wrong}; restore it, or drop the pin in `data: {{files: ...}}` if you mean this one")
    return found


def _whole(file: DataFile, place: Path) -> Located | None:
    """The file of the cache, read through and held to its pins again; None: not there, or damaged."""
    return found if place.is_file() and not _wrong(file, found := _read(place)) else None


def _read(path: Path) -> Located:
    num_bytes = path.stat().st_size
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        opened.seek(0)
        git_blob = hashlib.file_digest(opened, lambda: hashlib.sha1(b"blob %d\0" % num_bytes)).hexdigest()
    return Located(path, sha256, git_blob, num_bytes)


def _wrong(file: DataFile, found: Located) -> str | None:
    """How the bytes differ from those pinned, with both digests; None: they fit."""
    for name, pinned, has in (("sha256", file.sha256, found.sha256), ("git blob", file.git_blob, found.git_blob)):
        if pinned is not None and pinned != has:
            return f"its {found.num_bytes:,} bytes have {name} {has}, pinned is {pinned}"
    return None


def _pin(file: DataFile) -> str:
    git_blob = f"git blob {file.git_blob}" if file.git_blob else "no pin known; its sha256 will be recorded"
    return f"sha256 {file.sha256}" if file.sha256 else git_blob


def _by_hand(place: Path, pin: str) -> str:
    unfit = "; what stands there does not fit" if place.exists() else ""
    by_hand = f"fetch it by other means and put it at {place} ({pin}){unfit}"
    return f"{by_hand}, or name a folder that has it with `data: {{source: ...}}`"


def _take_out(file: DataFile, url: str, member: str, place: Path) -> Located:
    """The member of an archive; the archive stays in the cache for the next one."""
    archive = (
        files.cache_folder()
        / "downloads"
        / _digest(url)
        / (unquote(urlsplit(url).path).rpartition("/")[2] or "archive")
    )
    with _locked(archive):
        if not archive.is_file():
            _download(url, archive, f"an archive; of its file {file.name}: {_pin(file)}", None).replace(archive)
    part = place.with_name(f"{place.name}.part")
    try:
        archives.extract_member(archive, member, part)
        return _settle(file, part, place)
    except DataError:
        archive.unlink(missing_ok=True)  # the next run fetches it anew
        raise


def _settle(file: DataFile, part: Path, place: Path) -> Located:
    """Give a finished file its name, if it fits its pins; else remove it."""
    found = _read(part)
    if wrong := _wrong(file, found):
        page = " (an HTML page or nothing)" if _is_page_or_empty(part) else ""
        part.unlink()
        raise DataError(f"{file.url} gave something else{page}: {wrong}; {_by_hand(place, _pin(file))}")
    part.replace(place)
    return replace(found, path=place)


def _download(url: str, place: Path, pin: str, version: str | None) -> Path:
    """Download to a `.part` beside `place` and return its path: on disk, with as many bytes as the server announced.

    A part is resumed when `version`, else the server's mark of the version, says that both halves are of one file.

    Raises:
        DataError: nothing was to be had; says what can be done by hand.
        ResourceError: the disk is too full.
    """
    num_bytes, mark = _probe(url)
    part = place.with_name(f"{place.name}.{_digest(version or mark)[:8]}.part")
    for other in place.parent.glob(f"{glob.escape(place.name)}.????????.part"):
        if other != part or not (version or mark):
            other.unlink()
    missing = (num_bytes or 0) - (part.stat().st_size if part.exists() else 0)
    if num_bytes and not missing:  # killed after the last byte
        return part
    if missing > (free := shutil.disk_usage(place.parent).free):
        needed = f"{missing:,} bytes are needed for {url}, {free:,} are free"
        raise ResourceError(f"{place.parent}: {needed}; free some, or set FOCUS_CACHE to a folder on another disk")
    for attempt in range(ATTEMPTS):
        time.sleep(WAIT_SECONDS * 2 ** (attempt - 1) if attempt else 0)
        problem, may_pass = _fetch(url, part, place.name)
        if not may_pass:
            break
    if not problem and version is None and _is_page_or_empty(part):
        part.unlink()
        problem = "the server gives an HTML page or nothing at all"
    if problem:
        raise DataError(f"{url}: {problem}; {_by_hand(place, pin)}")
    return part


def _probe(url: str) -> tuple[int | None, str]:
    """Bytes of the file and the server's mark of its version, as far as it tells."""
    import httpx2
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        answer = get_session().head(url, headers=WHOLE, timeout=10.0)
    except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled):
        return None, ""
    length = answer.headers.get("Content-Length", "")
    mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
    return (int(length) if length.isdecimal() else None, mark or "") if answer.is_success else (None, "")


def _fetch(url: str, part: Path, name: str) -> tuple[str, bool]:
    """Append what `part` lacks. What went wrong (nothing: empty), and whether another attempt may help."""
    import httpx2
    from huggingface_hub import constants
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from huggingface_hub.file_download import http_get

    # It logs each of its own attempts; what came of them all is said once, by us.
    logging.getLogger(http_get.__module__).setLevel(logging.CRITICAL)
    # A connection that breaks loses the block it was in; with the 10 MB that are the default, most files would be lost.
    constants.DOWNLOAD_CHUNK_SIZE = BLOCK
    try:
        with part.open("ab") as file:
            http_get(url, file, resume_size=file.tell(), headers=WHOLE, displayed_filename=name)
            file.flush()
            os.fsync(file.fileno())
    except OfflineModeIsEnabled:
        return "not downloaded, for HF_HUB_OFFLINE is set", False
    except HfHubHTTPError as error:
        status = error.response.status_code
        if is_too_long := status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            part.unlink()
        return f"the server answers {status} {error.response.reason_phrase}", is_too_long or status >= 500
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        # http_get has tried again by itself, except after this one kind.
        return _line(error), isinstance(error, httpx2.ReadError)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise ResourceError(
                f"{part}: {error.strerror}; free the disk or set FOCUS_CACHE, the next run goes on"
            ) from None
        part.unlink()  # the headers do not say how the answer continues it
        return _line(error), True
    return "", False


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """One process at a time; the lock of a process that died is free."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place.with_name(f"{place.name}.lock")).acquire()
    except OSError as error:
        raise ResourceError(f"{place.parent}: {error.strerror}; set FOCUS_CACHE to a writable folder") from None
    with lock:
        yield


def _is_page_or_empty(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(512).lstrip()[:1] in (b"<", b"")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
