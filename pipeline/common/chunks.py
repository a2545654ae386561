"""The chunks of a run, by document and by id. Their texts stay on disk, and are read when they are asked for.

The table itself is compressed, so that a text cannot be read alone: texts, titles and places are copied once into
scratch files that are mapped into memory. These have no name, lie beside the table, and go with the process.
"""

import tempfile
import weakref
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipeline.common import files, tables
from pipeline.runtime.errors import ArtifactError

CACHED = 8192  # documents: all people of the biographies


class Chunk(NamedTuple):
    """A chunk of a document: characters [start, end) of its text."""

    chunk_id: str
    document_id: str
    title: str
    text: str
    start: int = 0
    end: int = 0
    number: int = -1
    """Its row in the table."""


class Scratch:
    """Values of one type that are appended to a file without a name, and mapped into memory at last."""

    def __init__(self, dtype: type, folder: Path | None = None) -> None:
        """`folder` is on the disk that has room for them; None: the system's folder for temporary files."""
        self._dtype = np.dtype(dtype)
        self._place = Path(tempfile.gettempdir()) if folder is None else folder
        self._file = tempfile.TemporaryFile(dir=self._place)
        weakref.finalize(self, _close, self._file)  # where an error keeps `mapped` from being called

    def append(self, values: Any) -> None:
        """Append an array or a list. Raises ResourceError: the disk is full."""
        with files.writing(self._place / "scratch"):
            self._file.write(np.ascontiguousarray(values, self._dtype).data)

    def mapped(self) -> NDArray[Any]:
        """All values; nothing is appended any more."""
        with files.writing(self._place / "scratch"), self._file:
            self._file.flush()
            if not self._file.tell():
                return np.empty(0, self._dtype)
            return np.asarray(np.memmap(self._file, self._dtype, "r"))  # a plain array, whose items are read faster


def _close(file: IO[bytes]) -> None:
    with suppress(OSError):  # a disk without room has been told of
        file.close()


class _Texts:
    """Texts that are appended to a scratch file."""

    def __init__(self, folder: Path | None) -> None:
        self._bytes, self._ends = Scratch(np.uint8, folder), Scratch(np.int64, folder)
        self._ends.append([0])
        self._num_bytes = 0

    def append(self, texts: pa.LargeStringArray) -> None:
        offsets = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        first, end = int(offsets[0]), int(offsets[-1])
        if end > first:
            self._bytes.append(np.frombuffer(texts.buffers()[2], np.uint8)[first:end])
        self._ends.append(offsets[1:] - first + self._num_bytes)
        self._num_bytes += end - first

    def mapped(self) -> pa.LargeStringArray:
        ends = self._ends.mapped()
        return pa.LargeStringArray.from_buffers(len(ends) - 1, pa.py_buffer(ends), pa.py_buffer(self._bytes.mapped()))


class Chunks(Mapping[str, Chunk]):
    """Chunks by their ids, and by document."""

    def __init__(self, batches: Iterable[pa.RecordBatch], folder: Path | None = None) -> None:
        """Take batches of the table of chunks, in which the chunks of a document follow each other in their order.

        Raises:
            ArtifactError: they do not.
            ResourceError: `folder` has no room for their texts.
        """
        texts, titles = _Texts(folder), _Texts(folder)
        starts, ends = Scratch(np.int32, folder), Scratch(np.int32, folder)
        self._place_of: dict[str, int] = {}
        """Place of each document among the documents."""
        first = array("q")
        num_chunks, last = 0, None
        for batch in batches:
            texts.append(batch["text"])
            titles.append(batch["title"])
            starts.append(batch["start"].to_numpy())
            ends.append(batch["end"].to_numpy())
            for number, name in enumerate(batch["document_id"].to_pylist(), start=num_chunks):
                if name != last:
                    if name in self._place_of:
                        raise ArtifactError(
                            f"the chunks of document {name!r} do not follow each other in their table; run "
                            "`dvc repro -f chunk`"
                        )
                    self._place_of[name] = len(first)
                    first.append(number)
                    last = name
            num_chunks += len(batch)
        first.append(num_chunks)
        self._first = first
        self._of = lru_cache(maxsize=CACHED)(self._read)
        self._texts, self._titles, self._starts, self._ends = (each.mapped() for each in (texts, titles, starts, ends))

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        for name in self._place_of:
            yield from (chunk.chunk_id for chunk in self.of(name))

    def __contains__(self, chunk_id: object) -> bool:
        return isinstance(chunk_id, str) and self._number(chunk_id) is not None

    def __getitem__(self, chunk_id: str) -> Chunk:
        number = self._number(chunk_id)
        if number is None:
            raise KeyError(chunk_id)
        return self._chunk(chunk_id, chunk_id.rpartition("#")[0], number)

    @property
    def documents(self) -> Mapping[str, int]:
        """The documents in their order, each with its place."""
        return self._place_of

    def of(self, document_id: str) -> Sequence[Chunk]:
        """The chunks of a document in their order. Raises KeyError: it has none."""
        return self._of(document_id)

    def _read(self, document_id: str) -> list[Chunk]:
        place = self._place_of[document_id]
        first, end = self._first[place], self._first[place + 1]
        return [self._chunk(f"{document_id}#{number - first}", document_id, number) for number in range(first, end)]

    def text(self, number: int) -> str:
        """The text of a row of the table."""
        found: str = self._texts[number].as_py()
        return found

    def title(self, number: int) -> str:
        """The title of a row of the table."""
        found: str = self._titles[number].as_py()
        return found

    def _chunk(self, chunk_id: str, document_id: str, number: int) -> Chunk:
        places = int(self._starts[number]), int(self._ends[number])
        return Chunk(chunk_id, document_id, self.title(number), self.text(number), *places, number)

    def _number(self, chunk_id: str) -> int | None:
        """The row of a chunk, whose id is <document_id>#<index>; None: there is no such chunk."""
        document_id, _, index = chunk_id.rpartition("#")
        place = self._place_of.get(document_id)
        if place is None or not index.isdecimal():
            return None
        number = self._first[place] + int(index)
        return number if number < self._first[place + 1] else None


_COLUMNS = {
    "document_id": tables.TEXT, "start": pa.int32(), "end": pa.int32(), "title": tables.TEXT, "text": tables.TEXT,
}  # fmt: skip


def read(table: tables.Table) -> Chunks:
    """Read the table of chunks. Raises ArtifactError as tables.scan, ResourceError as Chunks."""
    return Chunks(tables.batches(table, list(_COLUMNS)), table.path.parent)


def of_rows(rows: Iterable[Mapping[str, Any]]) -> Chunks:
    """Take rows of the table of chunks."""
    return Chunks(pa.Table.from_pylist(list(rows), schema=pa.schema(_COLUMNS)).to_batches())
