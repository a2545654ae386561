"""Rows that the actors of a Ray cluster work on come back as from the stage's own process."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.common import cluster
from pipeline.runtime.errors import ArtifactError, ConfigError, DataError


def adder() -> Callable[[int], int]:
    """Return what adds the number in a file to a row, and refuses row 7."""
    number = int(Path("number").read_text())

    def add(row: int) -> int:
        if row == 7:
            raise DataError("row 7 is bad; mend it")
        return row + number

    return add


@pytest.fixture
def actors() -> None:
    """Ray, which sends the actors the functions of this file, as it does with those of a stage, which is `__main__`."""
    pytest.importorskip("ray").cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("FOCUS_RAY_ACTORS", "1")
    monkeypatch.setattr(cluster, "ROWS_PER_BLOCK", 3)
    Path("number").write_text("100")
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def shut_down():
    yield
    if ray := sys.modules.get("ray"):
        ray.shutdown()


def mapped(rows, engine):
    return cluster.mapped(adder, rows, engine, "context.engine", [Path("number")])


def test_rows_come_back_in_order_and_the_first_bad_one_ends_them(folder: Path, actors: None):
    assert list(mapped([*range(10, 30)], "ray")) == list(mapped(range(10, 30), "local")) == [*range(110, 130)]
    assert list(mapped([], "ray")) == []
    for engine in ("local", "ray"):
        found = []
        with pytest.raises(DataError, match="row 7 is bad; mend it"):
            for result in mapped(iter(range(20)), engine):
                found.append(result)
        assert found == [*range(100, 107)]


def test_a_machine_that_sees_another_file_is_named(folder: Path, actors: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cluster, "_sha256", lambda path: "0" * 64)  # of the machine that starts the stage alone
    with pytest.raises(ArtifactError, match=r"number has SHA-256 ad57366865.. on machine .*, and 000000000000 on the"):
        list(mapped([1], "ray"))
    (folder / "number").unlink()
    with pytest.raises(ArtifactError, match=r"machine .* cannot read .*/number; put the project where all see the"):
        list(mapped([1], "ray"))


def test_without_ray_the_line_names_the_setting(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"context.engine is ray, .* or set context.engine: local"):
        list(mapped([1], "ray"))
