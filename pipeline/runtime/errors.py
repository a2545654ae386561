"""What can go wrong for the user, and the exit code each kind ends a stage with.

    PipelineError
    ├── ConfigError    2   a setting is unknown, of the wrong type or out of range
    ├── DataError      3   the user's data cannot be read as what it claims to be
    ├── ArtifactError  4   a file of an earlier stage or a model is missing, corrupt or does not match
    ├── NumericError   5   a loss or gradient is NaN or infinite
    └── ResourceError  6   disk, memory or a needed program is not there

A message says what was given, what is allowed and what to do next, in one line; no traceback follows it.
"""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from pipeline.runtime import run_log


class PipelineError(Exception):
    """Base of every error that is the user's to mend."""

    exit_code = 1


class ConfigError(PipelineError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(PipelineError):
    """The user's data cannot be read as what it claims to be."""

    exit_code = 3


class ArtifactError(PipelineError):
    """A file of an earlier stage, or a model, is missing, corrupt or does not match its reader."""

    exit_code = 4


class NumericError(PipelineError):
    """A loss or a gradient is NaN or infinite."""

    exit_code = 5


class ResourceError(PipelineError):
    """Disk, memory or a needed program is not there."""

    exit_code = 6


INTERRUPTED = 130
LAUNCHED = "FOCUS_LAUNCHED"
"""Environment of processes that were started together: the file for the code and the line of the one that failed."""


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def run(main: Callable[[], None]) -> None:
    """Run a stage's `main` and leave with the right exit code: user errors in one line, our own bugs with a traceback.

    SIGTERM counts as an interrupt, so that temporary files are removed on the way out.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with run_log.timed():
            main()
    except PipelineError as error:
        _leave(error.exit_code, str(error))
    except OSError as error:
        # A full disk or a read-only folder is the user's to mend; the path says where.
        _leave(ResourceError.exit_code, f"{error.strerror or error}: {error.filename or 'no path given'}")
    except KeyboardInterrupt:
        _leave(INTERRUPTED, "interrupted; finished artifacts are whole, run the same command to go on")


def _leave(code: int, message: str) -> None:
    """End with the line and the code; one of several processes leaves both to the one that started them."""
    report = os.environ.get(LAUNCHED)
    if report and "RANK" in os.environ:
        try:
            with open(report, "x", encoding="utf-8") as file:  # the first to fail tells why, the others fail for that
                file.write(f"{code} {message}")
        except OSError:
            pass
    else:
        print(f"error: {message}", file=sys.stderr)
    sys.exit(code)
