"""A small BERT on disk and a fresh cache of embeddings."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.retrieval import embedding_cache
from tests import tiny_bert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert.save(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[embedding_cache.Cache]:
    with closing(embedding_cache.Cache(tmp_path / "cache.sqlite")) as opened:
        yield opened
