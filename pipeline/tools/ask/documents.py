"""Reads files of the user as documents: text, Markdown, PDF, and documents in the format of docs/own-documents.md."""

import codecs
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline.common.tables import Document
from pipeline.data import jsonl
from pipeline.data.benchmarks.own_jsonl import DocumentLine
from pipeline.runtime.errors import DataError, ResourceError, one_line

TEXTS = (".txt", ".text", ".md", ".markdown", ".rst")
PDF = ".pdf"
OWN = "documents.jsonl"
"""The one file of a folder whose lines are documents."""
KINDS = f"text ({', '.join(TEXTS)}), {PDF}, or a {OWN}"
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class Files(NamedTuple):
    """The documents of a folder, and what else lies there."""

    documents: list[Document]
    """In the order of their paths. The id is the path below the folder, behind it the id within a file of many."""
    skipped: Counter[str]
    """Files that were not read, by kind: a suffix, `binary` or `blank`."""


def read(place: Path) -> Files:
    """Read a file, or the files of a folder and of the folders in it, but for hidden ones.

    A file that is named itself is read as text if nothing else is known of it.

    Raises:
        DataError: there is no such place, nothing in it can be read, or a file is damaged, encrypted, scanned or not in
            UTF-8.
        ResourceError: a PDF is there, and pypdf is not installed.
    """
    if not place.exists():
        raise DataError(f"{place}: no such file or folder; name one that holds {KINDS}")
    found: list[Document] = []
    skipped: Counter[str] = Counter()
    paths = [place] if place.is_file() else sorted(_below(place))
    for path in paths:
        is_own = path.suffix == ".jsonl" if path == place else path.name == OWN
        name = path.name if path == place else path.relative_to(place).as_posix()
        if is_own:
            found += _own(path, name)
            continue
        text: str | None
        if path.suffix.lower() == PDF:
            text = _pdf(path)
        elif path.suffix.lower() in TEXTS or path == place:
            text = _text(path)
        else:
            skipped[path.suffix.lower() or "without a suffix"] += 1
            continue
        if text is None or jsonl.is_blank(text):
            skipped["binary" if text is None else "blank"] += 1
        else:
            found.append(Document(name, path.stem, text))
    if not found:
        there = f"; found {listed(skipped)}" if skipped else ", and no file at all"
        raise DataError(f"{place}: nothing in it can be read{there}; name a file or folder that holds {KINDS}")
    return Files(found, skipped)


def listed(skipped: Counter[str]) -> str:
    """List the kinds of skipped files with their numbers, the most frequent first."""
    return ", ".join(f"{number:,} {kind}" for kind, number in skipped.most_common())


def _below(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if not hidden and path.is_file():
            yield path


def _text(path: Path) -> str | None:
    """Decode a text file; None: it is binary."""
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8-sig"
    if encoding != "utf-16" and b"\0" in content:
        return None
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not {error.encoding.upper()} (byte {error.start + 1:,} is 0x{content[error.start]:02x}); save "
            "the file as UTF-8, or take it out"
        ) from None


def _pdf(path: Path) -> str:
    try:
        import pypdf  # an extra: who has no PDF needs none of it
    except ImportError:
        raise ResourceError(
            f"{path}: pypdf, which reads PDF, is not installed; run `pip install pypdf`, or take the file out"
        ) from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it tells of every oddity of a file
    try:
        reader = pypdf.PdfReader(path)
        if reader.is_encrypted and not reader.decrypt(""):
            raise DataError(f"{path}: the PDF is encrypted; save it without a password, or take it out")
        pages = [page.extract_text() for page in reader.pages]
    except (DataError, OSError, MemoryError):
        raise
    except Exception as error:  # pypdf raises its own kinds, and many others at damaged files
        raise DataError(f"{path}: cannot be read as PDF ({one_line(error)}); save it anew, or take it out") from None
    text = "\n\n".join(pages).encode("utf-8", "replace").decode()  # it may give halves of surrogate pairs
    if jsonl.is_blank(text):
        raise DataError(
            f"{path}: none of its {len(pages):,} pages has text, perhaps they are scanned; run OCR over it (such as "
            "ocrmypdf), or take it out"
        )
    return text


def _own(path: Path, name: str) -> Iterator[Document]:
    """Yield the documents of a file in our own format; a bad line is an error."""
    rejects = jsonl.Rejects()
    place_of: dict[str, str] = {}
    for place, line in jsonl.parse(jsonl.JsonRows([path], rejects), DocumentLine, rejects.reject):
        jsonl.refuse_twice(place_of, place, f"document {line.id!r}")
        yield Document(f"{name}: {line.id}", line.title, line.text, line.whole)
