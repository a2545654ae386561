"""Runs the experiments of a grid in a copy of the project, and keeps their answers.

`dvc exp run --temp` sets the user's own working tree back for a moment at every run, and a run that is killed in that
moment leaves the user's edits in a stash; `dvc exp run --queue` stashes them as well. So the files that git knows or
would take, edits included, are copied into a repository of their own, which shares DVC's cache with this one and
nothing else: hours of runs see one state of the code, and everything they write (params.yaml, dvc.lock, outputs,
experiments) stays there.

The answers of a run are kept in KEPT, each with its settings, the commit and the machine that made it: a grid of hours
may be committed run by run, and gone on with elsewhere.
"""

import fcntl
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.common import tables
from pipeline.evaluation import schema
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ResourceError
from pipeline.tools.ablations.grid import AblationRun

FOLDER = Path(".dvc/tmp/ablations")  # neither git nor DVC looks there
KEPT = Path("reports/runs")
SECONDS_TO_STOP = 60  # a training that is interrupted saves its state first
LINES_SHOWN = 12


class Workspace(NamedTuple):
    """A copy of the project in which one run at a time takes place."""

    folder: Path
    log: Path
    """What the runs of the latest call printed there."""


class Job(NamedTuple):
    """A run at work."""

    run: AblationRun
    workspace: Workspace
    process: subprocess.Popen[bytes]
    started: float
    log_start: int
    """Place in the log where its lines begin."""


class Kept(NamedTuple):
    """Facts about a finished run besides its answers."""

    seconds: float
    made_by: str
    """The git commit of the code, and the machine."""
    is_current: bool
    """Whether the code and the data that it depends on are still those of the project."""


class FailedRun(NamedTuple):
    """A run that ended with an error."""

    run: AblationRun
    lines: list[str]
    """The last lines it printed."""


@contextmanager
def alone(folder: Path = FOLDER) -> Iterator[int]:
    """Lock the folder of the copies; yields the open lock file, which `start` needs.

    The run inherits the file and with it the lock, which is free once both processes have ended. Otherwise a run whose
    `make ablations` was killed would write into the folder of the next one.

    Raises:
        ResourceError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 256, 0).decode() or "unknown"
            raise ResourceError(
                f"{folder}: another `make ablations`, `make map` or `make example` is running, or a run that a killed "
                f"one left (process {holder}); wait for it, or stop it"
            ) from None
        note(lock, [os.getpid()])
        yield lock
    finally:
        os.close(lock)


def note(lock: int, processes: Iterable[int]) -> None:
    """Write down who is at work, for the message to a second caller."""
    os.ftruncate(lock, 0)
    os.pwrite(lock, ", ".join(map(str, processes)).encode(), 0)


def snapshot(number: int = 1) -> Workspace:
    """Copy the project as it stands, inputs too, into workspace `number`. Raises ResourceError as `copy_project`."""
    suffix = "" if number == 1 else f"-{number}"
    made = Workspace(FOLDER / f"workspace{suffix}", FOLDER / f"log{suffix}.txt")
    copy_project(made.folder)
    if Path("input").is_dir():
        shutil.copytree("input", made.folder / "input", dirs_exist_ok=True)
    made.log.unlink(missing_ok=True)
    return made


def copy_project(workspace: Path) -> None:
    """Copy the project as it stands, but for what git ignores, into the folder, and commit it there.

    Outputs and checkpoints that lie there stay, and DVC's cache is the project's.

    Raises:
        ResourceError: git or DVC is missing, or fails.
    """
    root, local = Path(), Path(".dvc/config.local")
    listed = _output(root, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard").split("\0")
    names = "\0".join(name for name in listed if name and (root / name).is_file())
    # A new repository each time: whatever a killed run left half-done in git or in DVC's own notes is gone with it.
    for left in (".git", ".dvc/tmp", "input"):
        shutil.rmtree(workspace / left, ignore_errors=True)
    _output(root, "git", "init", "--quiet", "--template=", str(workspace))
    for setting in ("user.name=us", "user.email=us@localhost", "commit.gpgsign=false", "core.autocrlf=false"):
        _output(workspace, "git", "config", *setting.split("="))
    # git copies: it takes the user's files into that repository, by name because some may be ignored, writes them into
    # the workspace, and removes every other file there but the outputs, which are ignored.
    there = (f"--git-dir={workspace}/.git", "--work-tree=.", "--literal-pathspecs")
    _output(root, "git", *there, "add", "--force", "--pathspec-from-file=-", "--pathspec-file-nul", given=names)
    _output(workspace, "git", "commit", "--quiet", "--allow-empty", "--message", "what the run found")
    _output(workspace, "git", "reset", "--quiet", "--hard")
    _output(workspace, "git", "clean", "--quiet", "--force", "-d")
    if (root / local).is_file():
        shutil.copy2(root / local, workspace / local)
    _output(workspace, "dvc", "config", "--local", "cache.dir", _output(root, "dvc", "cache", "dir").strip())


def start(run: AblationRun, workspace: Workspace, lock: int, num_threads: int | None = None) -> Job:
    """Start the experiment.

    Args:
        lock: the open file that `alone` yielded.
        num_threads: OMP_NUM_THREADS of its stages, where the environment has none; None: they decide.
    """
    folder = workspace.folder
    _output(folder, "git", "checkout", "--quiet", "HEAD", "--", str(config.PARAMS))
    command = ["dvc", "exp", "run"]
    for key, value in run.overrides.items():
        command += ["--set-param", f"++{key}={json.dumps(value, ensure_ascii=False)}"]
    threads = {} if num_threads is None else {"OMP_NUM_THREADS": str(num_threads)}
    with workspace.log.open("ab") as log:
        process = subprocess.Popen(
            [*command, run.target],
            cwd=folder,
            env={**threads, **environment()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches it through us alone, once
            pass_fds=(lock,),
        )
        return Job(run, workspace, process, time.monotonic(), log.tell())


def finish(job: Job, code: str) -> FailedRun | None:
    """Keep the answers of a job whose process has ended; `code`: the git commit of the project, in words."""
    run, seconds = job.run, time.monotonic() - job.started
    if job.process.returncode != 0:
        text = job.workspace.log.read_bytes()[job.log_start :].decode(errors="replace")
        return FailedRun(run, [line for line in text.splitlines() if line.strip()][-LINES_SHOWN:])
    predictions = schema.predictions_of(run.method, run.stage)
    columns = [name for name, _ in schema.ABLATION_RUN.columns]
    answers = tables.scan(predictions.at(job.workspace.folder / predictions.path), columns)
    marks = {"seconds": f"{seconds:.3f}", "run": str(run), "digest": run.digest, "settings": json.dumps(run.settings)}
    tables.write(_kept(run), answers, {**marks, "made_by": f"{code}; {machine()}"})
    return None


def machine() -> str:
    """Name the processor, its vector instructions, the number of cores, and the versions that decide rounding."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = about.get("model name") or platform.processor() or platform.machine()
    flags = set(about.get("flags", "").split())
    widest = next((shown for flag, shown in _VECTORS.items() if flag in flags), "")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in ("torch", "transformers"))
    return f"{name}{widest}, {os.cpu_count()} cores, {versions}"


_VECTORS = {"amx_tile": " with AMX", "avx512f": " with AVX512", "avx2": " with AVX2"}


def kept(runs: Iterable[AblationRun]) -> dict[str, Kept | None]:
    """Digest -> what is kept of the run; None where it has not finished, or its file is damaged or of other settings.

    Settings that only one of the two has, which code of another time did not know, are not compared.
    """
    return {run.digest: _read(run) for run in runs}


def _read(run: AblationRun) -> Kept | None:
    try:
        tables.frame(_kept(run))
        marks = tables.metadata(_kept(run))
        settings = json.loads(marks["settings"])
        found = Kept(float(marks["seconds"]), marks["made_by"], marks["digest"] == run.digest)
    except (ArtifactError, KeyError, ValueError):
        return None
    same = all(
        run.settings.get(section, {}).get(key, value) == value
        for section, values in settings.items()
        for key, value in values.items()
    )
    return found if same else None


def answers(run: AblationRun, given: str) -> pl.DataFrame:
    """Read the kept answers of a finished run to one input. Raises ArtifactError as tables.frame."""
    return tables.frame(_kept(run)).filter(pl.col("input") == given)


def _kept(run: AblationRun) -> tables.Table:
    return schema.ABLATION_RUN.at(KEPT / f"{run.name}.parquet")


def stop(jobs: Sequence[Job]) -> None:
    """End DVC and the stages: as Ctrl-C would, so that a training saves its state; by force at a second interrupt."""
    processes = [job.process for job in jobs]
    try:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        deadline = time.monotonic() + SECONDS_TO_STOP
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # whatever is left of the group
            process.wait()


def _output(folder: Path, *command: str, given: str = "") -> str:
    """Run a command and return what it prints. Raises ResourceError with its last line when it fails."""
    try:
        done = subprocess.run(command, cwd=folder, env=environment(), input=given, capture_output=True, text=True)
    except FileNotFoundError:
        raise ResourceError(f"{command[0]} is not there; run it by `make`, which sets up what it needs") from None
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise ResourceError(f"`{' '.join(command)}` failed in {folder.resolve()}: {last}")
    return done.stdout


def environment() -> dict[str, str]:
    """Put our own environment first on PATH, so that DVC and the stages' `python` are its own."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
