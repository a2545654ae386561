"""Exit codes of `run`, and the log of times: what it holds, and how a damaged log is read."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.runtime import main
from pipeline.runtime.errors import ConfigError
from tests.conftest import ROOT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(main, "_stage", lambda: "train@focused")
    for stream in ("stdout", "stderr"):  # `run` puts its own in their place
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    handler = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, handler)


def failing(error: BaseException) -> None:
    raise error


def noted() -> list[str]:
    return [json.loads(line)["stage"] for line in main.LOG.read_text().splitlines()] if main.LOG.exists() else []


def test_a_stage_that_ends_well_is_noted(folder: Path):
    main.run(lambda: None)
    main.run(lambda: failing(SystemExit(0)))
    assert noted() == ["train@focused"] * 2
    assert list(main.latest_seconds()) == ["train@focused"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(SystemExit(2), 2), (KeyboardInterrupt(), 130), (ConfigError("wrong"), 2), (OSError(28, "No space", "x"), 6)],
)
def test_a_stage_that_fails_is_not(folder: Path, error: BaseException, code: int):
    with pytest.raises(SystemExit) as left:
        main.run(lambda: failing(error))
    assert left.value.code == code and noted() == []


def test_our_own_bugs_keep_their_traceback(folder: Path):
    with pytest.raises(ValueError, match="a bug"):
        main.run(lambda: failing(ValueError("a bug")))
    assert noted() == []


def test_a_log_that_cannot_be_written_stops_nothing(folder: Path):
    (folder / "runs").write_text("a file")
    main.run(lambda: None)
    assert main.latest_seconds() == {}


def test_the_last_execution_counts_and_broken_lines_are_passed_over(folder: Path):
    lines = ['{"stage": "mask", "seconds": 9}', '{"stage": "train', "[]", '{"seconds": 1}', "\x00\udcff", "1"]
    lines += ['{"stage": "report", "seconds": 1.5}', '{"stage": "mask", "seconds": 2.5}']
    main.LOG.parent.mkdir()
    main.LOG.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    assert list(main.latest_seconds().items()) == [("report", 1.5), ("mask", 2.5)]


def test_only_stages_are_noted():
    """This process runs tests."""
    assert main._stage() is None


def program(folder: Path, body: str, *command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the body as the `main` of a program, perhaps under a command of the shell in which it is "$@"."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (folder / "program.py").write_text(
        f"import atexit, os, sys\nfrom tqdm import tqdm\nfrom pipeline.runtime.errors import DataError\n"
        f"from pipeline.runtime.main import run\ndef main():\n{lines}\nrun(main)\n"
    )
    own = [sys.executable, "program.py"]
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", *command, "bash", *own] if command else own,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        timeout=60,
    )


COLOURED = "\x1b[31mred\x1b]0;title\x07 \x9b2J \u202e"
SHOWN = rb"\x1b[31mred\x1b]0;title\x07 \x9b2J \u202e"


def test_control_characters_of_data_are_shown_and_not_obeyed(tmp_path: Path):
    body = (
        f"print('a table:\\n\\tid {COLOURED}')\n"
        f"for _ in tqdm(range(2), desc='{COLOURED}', disable=False):\n"
        "    for _ in tqdm(range(2), desc='inner', disable=False): pass\n"
        f"raise DataError('id {COLOURED}\\r\\nerror: another line')"
    ).replace("\u202e", "\\u202e")
    done = program(tmp_path, body.replace("\x1b", "\\x1b").replace("\x07", "\\x07").replace("\x9b", "\\x9b"))
    assert done.returncode == 3
    assert done.stdout == b"a table:\n\tid " + SHOWN + b"\n"
    *bars, last = done.stderr.rstrip(b"\n").split(b"\n")
    assert last == b"error: id " + SHOWN + rb"\r\nerror: another line"
    assert b"\r" + SHOWN + b":   0%" in b"\n".join(bars)
    rest = b"\n".join(bars).replace(b"\x1b[A", b"")  # the bars' own way back up
    assert b"\x1b" not in rest and b"inner: 100%" in rest


def test_a_name_that_is_not_utf_8_is_printed(tmp_path: Path):
    done = program(tmp_path, "print(os.fsdecode(b'caf\\xe9.parquet'))")
    assert (done.returncode, done.stdout) == (0, b"caf\\udce9.parquet\n")


def test_a_reader_that_leaves_gets_no_traceback(tmp_path: Path):
    done = program(tmp_path, "for number in range(100_000): print(number)", '"$@" | head -n 1')
    assert (done.returncode, done.stdout, done.stderr) == (main.READER_GONE, b"0\n", b"")


def test_output_that_cannot_be_written_is_one_line(tmp_path: Path):
    done = program(tmp_path, "print('some')", '"$@" > /dev/full')
    assert (done.returncode, done.stderr) == (6, b"error: standard output: No space left on device\n")


def test_an_error_without_a_path_and_one_with_two(tmp_path: Path):
    done = program(tmp_path, "raise OSError(28, 'No space left on device')")
    assert (done.returncode, done.stderr) == (6, b"error: [Errno 28] No space left on device\n")
    done = program(tmp_path, "raise OSError(28, 'No space left on device', 'source', None, 'target')")
    assert (done.returncode, done.stderr) == (6, b"error: target: No space left on device\n")


@pytest.mark.parametrize(("environment", "code"), [({"RANK": "0"}, 0), ({}, -signal.SIGABRT)], ids=["rank", "alone"])
def test_one_of_several_processes_is_not_taken_down_piece_by_piece(
    tmp_path: Path, environment: dict[str, str], code: int
):
    """A thread of gloo may abort the process meanwhile; here a last object does. All else that ends it is done."""
    body = (
        "class Aborting:\n"
        "    def __del__(self, abort=os.abort): abort()\n"
        "sys.kept = Aborting()\n"
        "atexit.register(print, 'registered')\n"
        "sys.stdout.write('said, ')"
    )
    done = program(tmp_path, body, **environment)
    assert (done.returncode, done.stdout) == (code, b"said, registered\n")


def test_of_a_long_message_beginning_and_way_out_are_shown(tmp_path: Path):
    body = "raise DataError('a.json: bad value ' + 'x' * 100_000 + '; fetch it again')"
    line = program(tmp_path, body).stderr.decode()
    assert line.startswith("error: a.json: bad value xxx") and line.endswith("xxx; fetch it again\n")
    assert len(line) < main.LONGEST_MESSAGE + 20
