"""The cache of embeddings returns what was put in, and survives damage and killed writers."""

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import pytest

from pipeline.common import files
from pipeline.retrieval import embedding_cache
from pipeline.runtime.errors import ArtifactError, ResourceError
from tests.conftest import ROOT


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / embedding_cache.FILE


@pytest.fixture
def opened(path):
    """Open the file; it is closed when the test ends."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(closing(embedding_cache.Cache(path)))


def entry(number):
    return embedding_cache.Entry(number, np.full(4, number, dtype=np.float32))


def key(number):
    return embedding_cache.key("encoder", str(number))


def fill(path, numbers):
    with closing(embedding_cache.Cache(path)) as cache:
        cache.put({key(number): entry(number) for number in numbers})


def test_an_entry_comes_back_to_the_last_bit(opened):
    vector = np.array([1 / 3, -0.0, 1e-40, 3e38], dtype=np.float32)
    opened().put({key(1): embedding_cache.Entry(700, vector)})
    found = opened().get([key(1), key(2)])
    assert list(found) == [key(1)]
    assert found[key(1)].num_tokens == 700
    assert found[key(1)].embedding_D.tobytes() == vector.tobytes()


def test_more_keys_than_one_query_takes(path, opened):
    numbers = range(2 * embedding_cache.KEYS_PER_QUERY + 7)
    fill(path, numbers)
    assert len(opened().get([key(number) for number in numbers])) == len(numbers)


def test_the_key_depends_on_the_encoder_and_on_the_text():
    pairs = [("a", "x"), ("a", "y"), ("b", "x"), ("a 256", "x"), ("a", "256 x")]
    assert len({embedding_cache.key(*pair) for pair in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE embeddings SET embedding = zeroblob(16) WHERE key = ?",
        "UPDATE embeddings SET num_tokens = 9 WHERE key = ?",
        "UPDATE embeddings SET embedding = substr(embedding, 1, 8) WHERE key = ?",
        "UPDATE embeddings SET embedding = NULL WHERE key = ?",
        "UPDATE embeddings SET embedding = 'text' WHERE key = ?",
    ],
)
def test_a_damaged_entry_counts_as_missing_and_is_overwritten(path, opened, damage):
    fill(path, [1, 2])
    connection = sqlite3.connect(path)
    assert connection.execute(damage, [key(1)]).rowcount == 1
    connection.commit()
    connection.close()
    cache = opened()
    assert list(cache.get([key(1), key(2)])) == [key(2)]
    cache.put({key(1): entry(1)})
    assert cache.get([key(1)])[key(1)].embedding_D.tolist() == [1.0] * 4


def test_a_file_that_is_no_database_gets_one_line_that_says_delete(path):
    path.parent.mkdir()
    path.write_bytes(b"not a database, but long enough to be read as one" * 50)
    with pytest.raises(ArtifactError, match=r"embeddings-1\.sqlite: damaged .*delete it") as caught:
        embedding_cache.Cache(path)
    assert "\n" not in str(caught.value)


def test_a_folder_in_the_files_place_names_the_path_and_the_variable(path):
    path.mkdir(parents=True)
    with pytest.raises(ResourceError, match=r"embeddings-1\.sqlite: .*FOCUS_CACHE"):
        embedding_cache.Cache(path)


def test_a_cache_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"file/inside: Not a directory; set FOCUS_CACHE"):
        embedding_cache.Cache(tmp_path / "file/inside" / embedding_cache.FILE)


def test_the_folder_is_the_users_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.setenv("FOCUS_CACHE", "/some/where")
    assert files.cache_folder() == Path("/some/where")
    monkeypatch.setenv("FOCUS_CACHE", "")
    assert files.cache_folder().name == "focused-learning"


WRITER = """
import sys
from pathlib import Path
from tests.retrieval.test_embedding_cache import embedding_cache, entry, key
cache = embedding_cache.Cache(Path(sys.argv[1]))
number = int(sys.argv[2])
while number < int(sys.argv[3]):
    cache.put({key(n): entry(n) for n in range(number, number + 10)})
    print(number, flush=True)
    number += 10
"""


def write_in_another_process(path, first, last):
    command = [sys.executable, "-c", WRITER, str(path), str(first), str(last)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_two_processes_write_the_same_file_at_once(path, opened):
    writers = [write_in_another_process(path, 0, 400), write_in_another_process(path, 200, 600)]
    for writer in writers:
        writer.communicate(timeout=120)
    assert [writer.returncode for writer in writers] == [0, 0]
    found = opened().get([key(number) for number in range(600)])
    assert len(found) == 600
    assert all(found[key(number)].embedding_D.tolist() == [number] * 4 for number in range(600))


def test_a_killed_writer_leaves_whole_groups_and_a_usable_file(path, opened):
    writer = write_in_another_process(path, 0, 10_000_000)
    assert writer.stdout is not None
    done = [int(writer.stdout.readline()) for _ in range(5)]
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate(timeout=60)
    cache = opened()
    last = done[-1] + 10
    assert len(cache.get([key(number) for number in range(last)])) == last
    beyond = [number for number in range(last, last + 100_000, 10) if cache.get([key(number)])]
    for number in beyond:
        assert len(cache.get([key(n) for n in range(number, number + 10)])) == 10
    cache.put({key(-1): entry(1)})
    assert cache.get([key(-1)])
