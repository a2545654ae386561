"""Runs the `main` of a stage or a command: exit codes, interrupts, the log of times, and the git commit.

Times and the commit are not derived from a stage's inputs, so no stage writes them into an output. The log lies
beside the graph, and `make repro` prints it at its end.
runs/stages.jsonl    one line per finished execution: stage, seconds (without the start of Python), finished (UTC)
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from pipeline.runtime.errors import PipelineError, ResourceError

INTERRUPTED = 130
LAUNCHED = "FOCUS_LAUNCHED"
"""Environment variable of processes that were started together: the file in which the first that fails writes its exit
code and its message."""
LOG = Path("runs/stages.jsonl")
STAGES = "pipeline.stages."
WRITTEN_BY_RUNS = ("dvc.lock", "reports", "data", "models")
"""A run writes these itself, so changes there do not count as changes of the code."""


def run(main: Callable[[], object]) -> None:
    """Run `main` and exit with the right code: the user's errors print one line, our own bugs print a traceback.

    SIGTERM counts as an interrupt, so that temporary files are removed on the way out.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with timed():
            main()
    except PipelineError as error:
        _leave(error.exit_code, str(error))
    except OSError as error:
        # The user must mend a full disk or a read-only folder; the path shows where.
        _leave(ResourceError.exit_code, f"{error.strerror or error}: {error.filename or 'no path given'}")
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted; finished artifacts are whole, run the same command to go on")


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _leave(code: int, message: str) -> None:
    """Print the message and exit with the code. One of several processes leaves both to the process that started it."""
    report = os.environ.get(LAUNCHED)
    if report and "RANK" in os.environ:
        try:
            with open(report, "x", encoding="utf-8") as file:  # only the first failure explains the others
                file.write(f"{code} {message}")
        except OSError:
            pass
    else:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)


@contextmanager
def timed() -> Iterator[None]:
    """Log the stage that this process runs, if it runs one and succeeds. A log that cannot be written stops nothing."""
    started = time.monotonic()
    succeeded = False
    try:
        yield
        succeeded = True
    except SystemExit as left:  # a process that started others exits so when all of them succeeded
        succeeded = left.code in (0, None)
        raise
    finally:
        if succeeded and (stage := _stage()):
            line = {
                "stage": stage,
                "seconds": round(time.monotonic() - started, 1),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            with suppress(OSError):
                LOG.parent.mkdir(exist_ok=True)
                with LOG.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def _stage() -> str | None:
    """The stage's name in dvc.yaml; None if this process runs no stage or is one of several that run the same stage."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = getattr(spec, "name", None) or ""
    if not name.startswith(STAGES) or "RANK" in os.environ or any(item.startswith("-") for item in sys.argv[1:]):
        return None
    return "@".join([name.removeprefix(STAGES), *sys.argv[1:]])


def latest_seconds() -> dict[str, float]:
    """Seconds of each stage's latest run on this machine, oldest first. Malformed lines are skipped."""
    found: dict[str, float] = {}
    with suppress(OSError):
        for text in LOG.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                stage, seconds = str(line["stage"]), float(line["seconds"])
                found.pop(stage, None)  # the latest run decides the order
                found[stage] = seconds
    return found


def commit() -> str:
    """The current git commit, its date, and whether the work tree has changes, as a phrase."""
    try:
        head = _git("show", "--no-patch", "--abbrev=12", "--format=%h of %cs", "HEAD").strip()
        changed = _git("status", "--porcelain", "--", ".", *(f":!{path}" for path in WRITTEN_BY_RUNS)).splitlines()
    except (OSError, subprocess.CalledProcessError):
        return "not under git, or no commit yet"
    if not changed:
        return f"commit {head}, the tree is clean"
    files = "1 file" if len(changed) == 1 else f"{len(changed)} files"
    return f"commit {head} and changes in {files} ({changed[0][3:]}{', …' if len(changed) > 1 else ''})"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=True)
    return done.stdout
