"""Where the grid's runs take place, and what is kept of them.

`dvc exp run --temp` sets the user's own working tree back for a moment at every run, and a run that is killed in that
moment leaves the user's edits in a stash. So the files that git knows or would take, edits included, are copied into a
repository of their own, which shares DVC's cache with this one and nothing else: hours of runs see one state of the
code, and what they write (params.yaml, dvc.lock, outputs, experiments) stays there.
"""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ResourceError
from pipeline.tools.ablations.plan import Run

FOLDER = Path(".dvc/tmp/ablations")  # neither git nor DVC looks there
WORKSPACE, LOG = FOLDER / "workspace", FOLDER / "log.txt"  # of the latest call, all its runs
COPIED = FOLDER / "copied.json"  # names of the user's files in the workspace
SECONDS_TO_STOP = 60  # a training that is told to stop saves its state first
LINES_SHOWN = 12


class Failure(NamedTuple):
    """A run that ended with an error."""

    run: Run
    lines: list[str]
    """The last ones it printed."""


@contextmanager
def alone() -> Iterator[int]:
    """Hold the grid's folder; the open file that does, for `execute`.

    The run inherits the file and with it the lock, which is free once both have ended: a run whose `make ablations` was
    killed would else write into the folder of the next one.

    Raises:
        ResourceError: another process holds it.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    held = os.open(FOLDER / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = os.pread(held, 32, 0).decode() or "unknown"
            raise ResourceError(
                f"{FOLDER}: another `make ablations` is running, or a run that a killed one left (process {left}); "
                "wait for it, or stop it"
            ) from None
        _note(held, os.getpid())
        yield held
    finally:
        os.close(held)


def _note(held: int, process: int) -> None:
    """Who is at work, for the message to a second caller."""
    os.ftruncate(held, 0)
    os.pwrite(held, f"{process}".encode(), 0)


def snapshot(root: Path = Path()) -> Path:
    """Copy the project as it stands into the workspace, and commit it there; outputs and checkpoints stay.

    Raises:
        ResourceError: git or DVC do not do their part.
    """
    listed = _output(root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    inputs = [path.relative_to(root) for path in (root / "input").rglob("*") if path.is_file()]
    taken = {Path(name) for name in listed if name and (root / name).is_file()}
    wanted = taken | set(inputs)
    workspace, copied = root / WORKSPACE, root / COPIED
    try:
        before = {Path(name) for name in json.loads(copied.read_text(encoding="utf-8"))}
    except (FileNotFoundError, ValueError):
        before = set()
        shutil.rmtree(workspace, ignore_errors=True)  # nobody knows what in it was the user's
    for path in before - wanted:
        (workspace / path).unlink(missing_ok=True)
    files.write_json(copied, sorted(path.as_posix() for path in wanted))  # before they are: a kill leaves none behind
    for path in wanted:
        target = workspace / path
        if not (target.is_file() and target.read_bytes() == (root / path).read_bytes()):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(root / path, target)
    # A new repository each time: whatever a killed run left half-done in git or in DVC's own notes is gone with it.
    shutil.rmtree(workspace / ".git", ignore_errors=True)
    shutil.rmtree(workspace / ".dvc/tmp", ignore_errors=True)
    local = root / ".dvc/config.local"
    if local.is_file():
        shutil.copy2(local, workspace / ".dvc/config.local")
    _output(workspace, "git", "init", "--quiet", "--template=")
    for name, value in (("user.name", "ablations"), ("user.email", "ablations@localhost"), ("commit.gpgsign", "false")):
        _output(workspace, "git", "config", name, value)
    _output(workspace, "dvc", "config", "--local", "cache.dir", _output(root, "dvc", "cache", "dir").strip())
    # Not all that lies there: outputs of earlier runs do as well, and DVC refuses to write what git tracks.
    names = "\0".join(path.as_posix() for path in sorted(taken))
    _output(
        workspace,
        "git",
        "--literal-pathspecs",
        "add",
        "--force",
        "--pathspec-from-file=-",
        "--pathspec-file-nul",
        given=names,
    )
    _output(workspace, "git", "commit", "--quiet", "--allow-empty", "--message", "what `make ablations` found")
    LOG.unlink(missing_ok=True)
    return workspace


def execute(run: Run, workspace: Path, held: int) -> Failure | None:
    """Run the experiment and keep its answers; on an interrupt the stages are stopped first, and save their state.

    Args:
        held: what `alone` gave.
    """
    _output(workspace, "git", "checkout", "--quiet", "HEAD", "--", str(config.PARAMS))
    command = ["dvc", "exp", "run"]
    for key, value in run.overrides.items():
        command += ["--set-param", f"++{key}={json.dumps(value, ensure_ascii=False)}"]
    start = time.monotonic()
    with LOG.open("ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [*command, f"evaluate@{run.method}"],
            cwd=workspace,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it through us alone, once
            pass_fds=(held,),
        )
        try:
            _note(held, process.pid)
            code = process.wait()
        except BaseException:
            _stop(process)
            raise
    seconds = time.monotonic() - start
    if code != 0:
        text = LOG.read_bytes()[begin:].decode(errors="replace")
        return Failure(run, [line for line in text.splitlines() if line.strip()][-LINES_SHOWN:])
    answers = tables.scan(
        schema.PREDICTIONS.at(workspace / f"reports/predictions/{run.method}.parquet"),
        [name for name, _ in schema.ABLATION_RUN.columns],
    )
    tables.write(schema.ABLATION_RUN.at(_place(run)), answers, {"seconds": f"{seconds:.3f}", "run": str(run)})
    return None


def seconds(run: Run) -> float | None:
    """What a finished run took in its last attempt; None: it is not finished, or what was kept of it is not whole."""
    try:
        tables.read(schema.ABLATION_RUN.at(_place(run)))
        return float(tables.metadata(schema.ABLATION_RUN.at(_place(run)))["seconds"])
    except (ArtifactError, KeyError, ValueError):
        return None


def answers(run: Run, given: str) -> list[tables.Row]:
    """The kept answers of a finished run with one input. Raises ArtifactError as tables.scan."""
    return [row for row in tables.scan(schema.ABLATION_RUN.at(_place(run))) if row["input"] == given]


def _place(run: Run) -> Path:
    return FOLDER / "runs" / f"{run.digest}.parquet"


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
    """What a command prints. Raises ResourceError with its last line when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, env=_environment(), input=given, capture_output=True, text=True)
    except FileNotFoundError:
        raise ResourceError(f"{command[0]} is not there; run `make ablations`, which sets up what it needs") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ResourceError(f"`{' '.join(command)}` failed in {folder.resolve()}: {last}")
    return done.stdout


def _environment() -> dict[str, str]:
    """DVC and the stages' `python` are those of our own environment, whatever stands on PATH."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
