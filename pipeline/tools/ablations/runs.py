"""Runs the experiments of a grid in a copy of the project, and keeps their answers.

`dvc exp run --temp` sets the user's own working tree back for a moment at every run, and a run that is killed in that
moment leaves the user's edits in a stash; `dvc exp run --queue` stashes them as well. So the files that git knows or
would take, edits included, are copied into a repository of their own, which shares DVC's cache with this one and
nothing else: hours of runs see one state of the code, and everything they write (params.yaml, dvc.lock, outputs,
experiments) stays there.

The answers of a run are kept in runs/<digest>.parquet below FOLDER, on this machine alone.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ResourceError
from pipeline.tools.ablations.grid import AblationRun

FOLDER = Path(".dvc/tmp/ablations")  # neither git nor DVC looks there
WORKSPACE, LOG = FOLDER / "workspace", FOLDER / "log.txt"  # LOG has all runs of the latest call
SECONDS_TO_STOP = 60  # a training that is interrupted saves its state first
LINES_SHOWN = 12


class FailedRun(NamedTuple):
    """A run that ended with an error."""

    run: AblationRun
    lines: list[str]
    """The last lines it printed."""


@contextmanager
def alone() -> Iterator[int]:
    """Lock the grid's folder; yields the open lock file, which `execute` needs.

    The run inherits the file and with it the lock, which is free once both processes have ended. Otherwise a run whose
    `make ablations` was killed would write into the folder of the next one.

    Raises:
        ResourceError: another process holds the lock.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    lock = os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 32, 0).decode() or "unknown"
            raise ResourceError(
                f"{FOLDER}: another `make ablations` or `make map` is running, or a run that a killed one left "
                f"(process {holder}); wait for it, or stop it"
            ) from None
        _note(lock, os.getpid())
        yield lock
    finally:
        os.close(lock)


def _note(lock: int, process: int) -> None:
    """Write down who is at work, for the message to a second caller."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{process}".encode(), 0)


def snapshot(root: Path = Path()) -> Path:
    """Copy the project as it stands into the workspace, and commit it there; outputs and checkpoints stay.

    Raises:
        ResourceError: git or DVC is missing, or fails.
    """
    listed = _output(root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    names = "\0".join(name for name in listed if name and (root / name).is_file())
    workspace, local = root / WORKSPACE, Path(".dvc/config.local")
    # A new repository each time: whatever a killed run left half-done in git or in DVC's own notes is gone with it.
    for left in (".git", ".dvc/tmp", "input"):
        shutil.rmtree(workspace / left, ignore_errors=True)
    _output(root, "git", "init", "--quiet", "--template=", str(WORKSPACE))
    for setting in ("user.name=us", "user.email=us@localhost", "commit.gpgsign=false", "core.autocrlf=false"):
        _output(workspace, "git", "config", *setting.split("="))
    # git copies: it takes the user's files into that repository, by name because some may be ignored, writes them into
    # the workspace, and removes every other file there but the outputs, which are ignored.
    there = (f"--git-dir={WORKSPACE}/.git", "--work-tree=.", "--literal-pathspecs")
    _output(root, "git", *there, "add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul", given=names)
    _output(workspace, "git", "commit", "--quiet", "--allow-empty", "--message", "what the grid's run found")
    _output(workspace, "git", "reset", "--quiet", "--hard")
    _output(workspace, "git", "clean", "--quiet", "--force", "-d")
    if (root / "input").is_dir():
        shutil.copytree(root / "input", workspace / "input", dirs_exist_ok=True)
    if (root / local).is_file():
        shutil.copy2(root / local, workspace / local)
    _output(workspace, "dvc", "config", "--local", "cache.dir", _output(root, "dvc", "cache", "dir").strip())
    LOG.unlink(missing_ok=True)
    return workspace


def execute(run: AblationRun, workspace: Path, lock: int) -> FailedRun | None:
    """Run the experiment and keep its answers; on an interrupt the stages are stopped first, and save their state.

    Args:
        lock: the open file that `alone` yielded.
    """
    _output(workspace, "git", "checkout", "--quiet", "HEAD", "--", str(config.PARAMS))
    command = ["dvc", "exp", "run"]
    for key, value in run.overrides.items():
        command += ["--set-param", f"++{key}={json.dumps(value, ensure_ascii=False)}"]
    start = time.monotonic()
    with LOG.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [*command, run.target],
            cwd=workspace,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it through us alone, once
            pass_fds=(lock,),
        )
        try:
            _note(lock, process.pid)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    seconds = time.monotonic() - start
    if code != 0:
        text = LOG.read_bytes()[begin:].decode(errors="replace")
        return FailedRun(run, [line for line in text.splitlines() if line.strip()][-LINES_SHOWN:])
    predictions = schema.predictions_of(run.method, run.stage)
    columns = [name for name, _ in schema.ABLATION_RUN.columns]
    answers = tables.scan(predictions.at(workspace / predictions.path), columns)
    tables.write(_kept(run), answers, {"seconds": f"{seconds:.3f}", "run": str(run)})
    return None


def seconds_of(runs: Iterable[AblationRun]) -> dict[str, float | None]:
    """Digest -> seconds of the run's last attempt; None where it has not finished, or its kept answers are damaged."""
    found: dict[str, float | None] = {}
    for run in runs:
        try:
            tables.read(_kept(run))
            found[run.digest] = float(tables.metadata(_kept(run))["seconds"])
        except (ArtifactError, KeyError, ValueError):
            found[run.digest] = None
    return found


def answers(run: AblationRun, given: str) -> pl.DataFrame:
    """Read the kept answers of a finished run to one input. Raises ArtifactError as tables.frame."""
    return tables.frame(_kept(run)).filter(pl.col("input") == given)


def _kept(run: AblationRun) -> tables.Table:
    return schema.ABLATION_RUN.at(FOLDER / "runs" / f"{run.digest}.parquet")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End DVC and the stage: as Ctrl-C would, so that a training saves its state; by force at a second interrupt."""
    try:
        os.killpg(process.pid, signal.SIGINT)
        process.wait(SECONDS_TO_STOP)
    except (ProcessLookupError, subprocess.TimeoutExpired):
        return
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # whatever is left of the group
        process.wait()


def _output(folder: Path, *command: str, given: str = "") -> str:
    """Run a command and return what it prints. Raises ResourceError with its last line when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, env=_environment(), input=given, capture_output=True, text=True)
    except FileNotFoundError:
        raise ResourceError(f"{command[0]} is not there; run `make ablations`, which sets up what it needs") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ResourceError(f"`{' '.join(command)}` failed in {folder.resolve()}: {last}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Put our own environment first on PATH, so that DVC and the stages' `python` are its own."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
