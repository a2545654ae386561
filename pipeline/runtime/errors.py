"""The errors that a user can mend, and the exit code of each.

    PipelineError
    ├── ConfigError    2   a setting is unknown, of the wrong type or out of range
    ├── DataError      3   the user's data cannot be read in the format it should have
    ├── ArtifactError  4   a file of an earlier stage or a model is missing, corrupt or does not match
    ├── NumericError   5   a loss or gradient is NaN or infinite
    └── ResourceError  6   disk, memory or a needed program is missing

A message names what was given, what is allowed and what to do next, in one line; no traceback follows it.
"""

import difflib
from collections.abc import Iterable


class PipelineError(Exception):
    """Base of every error that the user can mend."""

    exit_code = 1


class ConfigError(PipelineError):
    """A setting is unknown, of the wrong type or out of range."""

    exit_code = 2


class DataError(PipelineError):
    """The user's data cannot be read in the format it should have."""

    exit_code = 3


class ArtifactError(PipelineError):
    """A file of an earlier stage, or a model, is missing, corrupt or does not match its reader."""

    exit_code = 4


class NumericError(PipelineError):
    """A loss or a gradient is NaN or infinite."""

    exit_code = 5


class ResourceError(PipelineError):
    """Disk, memory or a needed program is missing."""

    exit_code = 6


def one_line(error: Exception) -> str:
    """Join the lines of the error's message; the kind of an error without a message."""
    return " ".join(str(error).split()) or type(error).__name__


def counted(number: int, name: str) -> str:
    """Write a number with what it counts: 1 question, 1,200 questions."""
    return f"{number:,} {name}{'s' * (number != 1)}"


def did_you_mean(given: object, known: Iterable[str]) -> str:
    """A hint for the end of a clause, ` (did you mean X?)` with the closest known name; empty if none is close."""
    found = difflib.get_close_matches(str(given), list(known), n=1, cutoff=0.5)
    return f" (did you mean {found[0]}?)" if found else ""
