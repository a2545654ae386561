"""A cache of embeddings in one SQLite file, shared by all runs; the key is a digest of the encoder and the text.

Deleting it only costs time. SQLite's locks and journal keep it whole when several processes write at once, and when a
process is killed while it writes. No torch here.
"""

import hashlib
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.runtime.errors import ArtifactError, ResourceError

# D dimensions of an embedding

KEYS_PER_QUERY = 500
LOCK_SECONDS = 60.0
FILE = "embeddings-1.sqlite"  # the number is the version of the table below


class Entry(NamedTuple):
    """The cached facts of one text."""

    num_tokens: int
    """Tokens before truncation, special tokens included."""
    embedding_D: NDArray[np.float32]


def key(encoder: str, text: str) -> bytes:
    """Return the key of a text's embedding; `encoder` names its weights, pooling, truncation and number format."""
    return hashlib.sha256(f"{encoder}\n{text}".encode()).digest()


class Cache:
    """A persistent map from key to Entry. An entry with a wrong checksum counts as missing and is overwritten."""

    def __init__(self, path: Path) -> None:
        """Open the file, or create it.

        Raises:
            ArtifactError: the file is no SQLite database, or is damaged.
            ResourceError: the file cannot be opened or written.
        """
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{path.parent}: {error.strerror}; set FOCUS_CACHE to a folder that can be written"
            ) from None
        with self._named_errors():
            self._connection = sqlite3.connect(path, timeout=LOCK_SECONDS)
            with self._connection:
                self._connection.execute(
                    "CREATE TABLE IF NOT EXISTS embeddings"
                    " (key BLOB PRIMARY KEY, num_tokens INTEGER, embedding BLOB, checksum INTEGER)"
                )

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """Return the entries that exist and are undamaged."""
        found: dict[bytes, Entry] = {}
        for start in range(0, len(keys), KEYS_PER_QUERY):
            block = keys[start : start + KEYS_PER_QUERY]
            places = ",".join("?" * len(block))
            with self._named_errors():
                rows = self._connection.execute(
                    f"SELECT key, num_tokens, embedding, checksum FROM embeddings WHERE key IN ({places})", block
                ).fetchall()
            for name, num_tokens, embedding, checksum in rows:
                # Damage may change the types too.
                whole = isinstance(num_tokens, int) and isinstance(embedding, bytes)
                if whole and checksum == _checksum(name, num_tokens, embedding):
                    found[name] = Entry(num_tokens, np.frombuffer(embedding, dtype="<f4").astype(np.float32))
        return found

    def put(self, entries: Mapping[bytes, Entry]) -> None:
        """Write all entries or none of them."""
        rows = [
            (name, num_tokens, blob := embedding_D.astype("<f4").tobytes(), _checksum(name, num_tokens, blob))
            for name, (num_tokens, embedding_D) in entries.items()
        ]
        with self._named_errors(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?, ?)", rows)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise ResourceError(
                f"{self._path}: {error}; free the disk or the lock, or set FOCUS_CACHE to a folder that can be written"
            ) from None
        except sqlite3.DatabaseError as error:
            raise ArtifactError(
                f"{self._path}: damaged ({error}); delete it, it is only a cache and the next run fills it again"
            ) from None


def _checksum(name: bytes, num_tokens: int, embedding: bytes) -> int:
    return zlib.crc32(embedding, zlib.crc32(f"{num_tokens} ".encode(), zlib.crc32(name)))
