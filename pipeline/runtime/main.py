"""Runs the `main` of a stage or a command: exit codes, interrupts, the terminal, the log of times, and the git commit.

Times and the commit are not derived from a stage's inputs, so no stage writes them into an output. The log lies
beside the graph, and `make repro` prints it at its end.
runs/stages.jsonl    one line per finished execution: stage, seconds (without the start of Python), finished (UTC)
"""

import atexit
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import psutil

from pipeline.runtime.errors import PipelineError, ResourceError

INTERRUPTED = 130
READER_GONE = 141
"""Exit code when nobody reads the output any more, as of a program that SIGPIPE ends."""
SECONDS_TO_NOTICE = 1
"""Seconds after which the end of DVC is noticed, at most."""
LAUNCHED = "FOCUS_LAUNCHED"
"""Environment variable of processes that were started together: the file in which the first that fails writes its exit
code and its message."""
LOG = Path("runs/stages.jsonl")
STAGES = "pipeline.stages."
WRITTEN_BY_RUNS = ("dvc.lock", "reports", "data", "models")
"""A run writes these itself, so changes there do not count as changes of the code."""


def run(main: Callable[[], object]) -> None:
    """Run `main` and exit with the right code: the user's errors print one line, our own bugs print a traceback.

    SIGTERM counts as an interrupt, so that temporary files are removed on the way out; so does the end of the DVC that
    started this process. What is printed goes through `Terminal`.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stdout: Any = Terminal(sys.stdout, "standard output")
    stderr: Any = Terminal(sys.stderr, "standard error", bars=True)
    sys.stdout, sys.stderr = stdout, stderr
    orphaned = _end_with_dvc()
    started = time.monotonic()
    try:
        main()
        sys.stdout.flush()
    except SystemExit as left:  # a process that started others exits, with 0 when all of them succeeded
        if left.code:
            raise
    except PipelineError as error:
        _leave(error.exit_code, message_of(error))
    except BrokenPipeError:
        _settle()
        sys.exit(READER_GONE)
    except OSError as error:
        # The user must mend a full disk or a read-only folder; the path shows where. Of two paths, as of a file that is
        # copied, the second one is written.
        path = error.filename2 or error.filename
        _leave(ResourceError.exit_code, f"{path}: {error.strerror}" if path else str(error))
    except KeyboardInterrupt:
        reason = "the DVC that started this stage has ended" if orphaned.is_set() else "interrupted"
        _leave(INTERRUPTED, f"{reason}; finished artifacts are whole, run the same command to go on")
    _log(time.monotonic() - started)
    if "RANK" in os.environ:
        _leave_group()


class Terminal:
    """A stream that shows control characters escaped, as `\\x1b`, because ids, titles and paths may hold some.

    Progress bars go to the start of a line and to the lines above; with `bars` they still do.
    """

    def __init__(self, stream: TextIO, name: str, *, bars: bool = False) -> None:
        self._stream, self._name, self._bars = stream, name, bars

    def write(self, text: str) -> int:
        if not (self._bars and _MOVES.fullmatch(text)):
            text = escaped(text, keep="\n\t\r" if self._bars else "\n\t")
        with self._named():
            return self._stream.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._named():
            self._stream.flush()

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Name the stream in errors, such as of a full disk that it goes to."""
        try:
            yield
        except OSError as error:
            error.filename = self._name
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


_MOVES = re.compile(r"\n*(?:\x1b\[A)+")  # how tqdm comes back from the line of a second bar
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, those that reverse the order of letters, and halves of pairs, which have no encoding.
"""
LONGEST_MESSAGE = 2000
"""Characters; a library's message may quote a whole file, and the way out stands at the end of ours."""


def escaped(text: str, keep: str = "") -> str:
    """Return the text with its control characters, but for those to keep, written as Python writes them."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], text)


def message_of(error: Exception) -> str:
    """The one line that the user reads: control characters escaped, the middle of a long message left out."""
    text = escaped(str(error))
    half = LONGEST_MESSAGE // 2
    return text if len(text) <= LONGEST_MESSAGE else f"{text[:half]} [...] {text[-half:]}"


def _end_with_dvc() -> threading.Event:
    """Interrupt this process when the DVC that started it ends, and set the event: DVC passes no SIGTERM on.

    Otherwise a training would go on without anyone who takes its result. Processes that a launcher has started are
    ended by it.
    """
    orphaned = threading.Event()
    if "DVC_STAGE" in os.environ and "RANK" not in os.environ:
        started = _started_by_dvc()
        parent = started.ppid()

        def watch() -> None:
            with suppress(psutil.NoSuchProcess):
                while started.ppid() == parent:
                    time.sleep(SECONDS_TO_NOTICE)
            orphaned.set()
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=watch, daemon=True).start()
    return orphaned


def _started_by_dvc() -> psutil.Process:
    """Return the child of DVC: this process, or the shell that waits for it. Both have DVC's variables, DVC has not."""
    process = psutil.Process()
    with suppress(psutil.Error):
        while (parent := process.parent()) and parent.environ().get("DVC_STAGE") == os.environ["DVC_STAGE"]:
            process = parent
    return process


def _leave(code: int, message: str) -> None:
    """Print the message and exit with the code. One of several processes leaves both to the process that started it."""
    report = os.environ.get(LAUNCHED)
    message = escaped(message)
    if report and "RANK" in os.environ:
        # Only the first failure explains the others.
        with suppress(OSError), open(report, "x", encoding="utf-8") as file:
            file.write(f"{code} {message}")
    else:
        with suppress(OSError):  # perhaps nobody reads it
            print(f"error: {message}", file=sys.stderr)
    _settle()
    sys.exit(code)


def _settle() -> None:
    """Flush the streams, and drop what they do not take: Python flushes them again at its end, with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _leave_group() -> None:
    """Exit with 0 after all that Python does at its end but for taking itself down.

    The threads of gloo ask for the interpreter at any moment. One that does while the interpreter is taken down is
    ended by force, which aborts the process ("terminate called without an active exception"), so that a training that
    has succeeded would count as failed.
    """
    atexit._run_exitfuncs()
    _settle()
    os._exit(0)


def _log(seconds: float) -> None:
    """Log the stage that this process has run, if it is one. A log that cannot be written stops nothing."""
    if stage := _stage():
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"stage": stage, "seconds": round(seconds, 1), "finished": finished}
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
