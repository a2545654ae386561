"""Finds the official files of a benchmark in a folder, or downloads them once, and checks their digests. No torch.

Downloads stand in FOCUS_CACHE below the pin of their bytes (else a digest of their URL), so that versions never mix.
A file gets its name only when it is whole and fits its pin; until then it is a `.part`, which the next run resumes.
"""

import glob
import hashlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock
from tqdm import tqdm

from pipeline.common import files
from pipeline.data import archives
from pipeline.runtime.errors import ConfigError, DataError, ResourceError, one_line
from pipeline.runtime.settings import DataFile

ATTEMPTS = 4  # in a row without a new byte, at a server that answers with its own errors or hangs up
WAIT_SECONDS = 2.0  # before the second attempt, twice as long before each further one
TIMEOUT_SECONDS = 10.0
MAY_PASS = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)  # errors of the client that another attempt mends
WHOLE = {"Accept-Encoding": "identity"}  # a server that packs its answers could not be resumed
BLOCK = 1 << 20  # a connection that breaks loses the block it was in
SHOWN_FILES = 8


@dataclass(frozen=True)
class Located:
    """A file that exists and fits its pins, with both digests for files that have no pin."""

    path: Path
    sha256: str
    git_blob: str
    num_bytes: int


def locate(file: DataFile, source: Path | None) -> Located:
    """Find the file in the folder `source`; without a folder, in the cache of downloads, downloaded if need be.

    Raises:
        ConfigError: no folder and no URL, or a member that its archive does not have.
        DataError: the file is not in the folder, cannot be downloaded, or has other bytes than those pinned.
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
            f"{path}: no such file ({has}); put it there{left_behind(source)}, or name the right folder with "
            "`data: {source: ...}` or your files with `data: {files: ...}` in params.yaml"
        )
    found = _read(path)
    if wrong := _wrong(file, found):
        raise DataError(f"{path}: {wrong}; restore it, or drop the pin in `data: {{files: ...}}` if you mean this one")
    return found


def left_behind(folder: Path) -> str:
    """Explain why a folder of the user's is missing in a copy in which `dvc exp run --temp` or `--queue` works."""
    copied = ".dvc" in Path.cwd().parts and not folder.is_absolute()
    return f" (this run is in a copy of what git knows: add --copy-paths {folder} to `dvc exp run`)" if copied else ""


def _whole(file: DataFile, place: Path) -> Located | None:
    """Read the file of the cache and check its pins again; None: it is not there, or damaged."""
    return found if place.is_file() and not _wrong(file, found := _read(place)) else None


def _read(path: Path) -> Located:
    num_bytes = path.stat().st_size
    with path.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
        opened.seek(0)
        git_blob = hashlib.file_digest(opened, lambda: hashlib.sha1(b"blob %d\0" % num_bytes)).hexdigest()
    return Located(path, sha256, git_blob, num_bytes)


def _wrong(file: DataFile, found: Located) -> str | None:
    """Tell how the bytes differ from those pinned, with both digests; None: they fit."""
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
    """Extract the member of an archive; the archive stays in the cache for the next member."""
    name = unquote(urlsplit(url).path).rpartition("/")[2] or "archive"
    archive = files.cache_folder() / "downloads" / _digest(url) / name
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

    A part is resumed when `version`, or else the server's mark of the version, shows that both halves are of one file.

    Raises:
        DataError: the download failed; the message tells what can be done by hand.
        ResourceError: the disk is too full.
    """
    num_bytes, mark = _probe(url)
    part = place.with_name(f"{place.name}.{_digest(version or mark)[:8]}.part")
    for other in place.parent.glob(f"{glob.escape(place.name)}.????????.part"):
        if other != part or not (version or mark):
            other.unlink()
    missing = (num_bytes or 0) - _num_bytes(part)
    if num_bytes and not missing:  # killed after the last byte
        return part
    if missing > (free := shutil.disk_usage(place.parent).free):
        needed = f"{missing:,} bytes are needed for {url}, {free:,} are free"
        raise ResourceError(f"{place.parent}: {needed}; free some, or set FOCUS_CACHE to a folder on another disk")
    attempt, may_pass = 0, True
    while may_pass and attempt < ATTEMPTS:
        time.sleep(WAIT_SECONDS * 2 ** (attempt - 1) if attempt else 0)
        before = _num_bytes(part)
        problem, may_pass = _fetch(url, part, place.name)
        attempt = 1 if _num_bytes(part) > before else attempt + 1
    if not problem and version is None and _is_page_or_empty(part):
        part.unlink()
        problem = "the server gives an HTML page or nothing at all"
    if problem:
        raise DataError(f"{url}: {problem}; {_by_hand(place, pin)}")
    return part


def _probe(url: str) -> tuple[int | None, str]:
    """Ask for the bytes of the file and the server's mark of its version, as far as it tells."""
    import httpx2
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        headers = get_session().head(url, headers=WHOLE, timeout=TIMEOUT_SECONDS).raise_for_status().headers
    except (httpx2.HTTPError, httpx2.InvalidURL, OfflineModeIsEnabled):
        return None, ""
    length = headers.get("Content-Length", "")
    return int(length) if length.isdecimal() else None, headers.get("ETag") or headers.get("Last-Modified") or ""


def _fetch(url: str, part: Path, name: str) -> tuple[str, bool]:
    """Append to `part` what it lacks. Return what went wrong (empty: nothing) and whether another attempt may help."""
    import httpx2
    from huggingface_hub import get_session
    from huggingface_hub.errors import OfflineModeIsEnabled

    try:
        with part.open("ab") as file:
            start = file.tell()
            headers = {**WHOLE, "Range": f"bytes={start}-"} if start else WHOLE
            with get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_SECONDS) as answer:
                status = answer.status_code
                is_too_long = status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
                continues = re.fullmatch(rf"bytes {start}-\d+/\d+", answer.headers.get("Content-Range", ""))
                if is_too_long or (answer.is_success and start and not continues):
                    start = file.truncate(0)
                if not answer.is_success:
                    may_pass = is_too_long or status in MAY_PASS or status >= 500
                    return f"the server answers {status} {answer.reason_phrase}", may_pass
                if status == HTTPStatus.PARTIAL_CONTENT and not continues:
                    return "the server sends a part of the file and does not tell which", True
                length = answer.headers.get("Content-Length")
                total = start + int(length) if length else None
                with tqdm(desc=name, initial=start, total=total, unit="B", unit_scale=True, disable=None) as progress:
                    for block in answer.iter_bytes(BLOCK):
                        file.write(block)
                        progress.update(len(block))
            file.flush()
            os.fsync(file.fileno())
    except OfflineModeIsEnabled:
        return "not downloaded, for HF_HUB_OFFLINE is set", False
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        is_passing = isinstance(error, httpx2.TransportError) and not isinstance(error, httpx2.UnsupportedProtocol)
        return f"{type(error).__name__}: {one_line(error)}", is_passing
    except OSError as error:
        raise ResourceError(
            f"{part}: {error.strerror}; free the disk or set FOCUS_CACHE, the next run goes on"
        ) from None
    return "", False


def _num_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Let one process in at a time; the lock of a process that died is free."""
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


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
