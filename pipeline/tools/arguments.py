"""Command-line arguments of the tools: a wrong argument is a ConfigError, so it ends like any other wrong setting."""

import argparse
from collections.abc import Callable, Sequence
from typing import NoReturn

from pipeline.runtime.errors import ConfigError, did_you_mean


class ArgumentParser(argparse.ArgumentParser):
    """argparse's parser, which raises a ConfigError of one line where argparse prints its usage and exits with 2."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see `{self.prog} --help`")


def positive(given: str) -> int:
    """Read a whole number above 0, as a `type` for add_argument."""
    if not given.isdecimal() or int(given) == 0:
        raise argparse.ArgumentTypeError(f"{given!r} is not a whole number above 0")
    return int(given)


def one_of(allowed: Sequence[str]) -> Callable[[str], str]:
    """Make a `type` for add_argument that accepts these values and suggests the nearest one for any other."""

    def check(given: str) -> str:
        if given in allowed:
            return given
        hint = did_you_mean(given, allowed)
        raise argparse.ArgumentTypeError(f"{given!r} is not known{hint}; choose from {', '.join(allowed)}")

    return check
