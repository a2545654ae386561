"""A signal that ends a long loop between two of its rounds, with all it has."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether it was told to stop."""

    told = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within, SIGTERM and SIGINT are noted, to be obeyed where it suits; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: a queue sends it to the launcher and to the processes, and the launcher passes it on.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.told and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.told = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
