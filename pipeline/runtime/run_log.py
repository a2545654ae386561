"""When each stage ran on this machine and for how long: a log beside the graph, which no stage reads.

Times are no function of a stage's inputs, so they are in none of its outputs; `make repro` prints them at its end.
runs/stages.jsonl    one line for each finished execution: stage, seconds (without the start of Python), finished (UTC)
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

LOG = Path("runs/stages.jsonl")
STAGES = "pipeline.stages."


@contextmanager
def timed() -> Iterator[None]:
    """Note the stage that this process runs, if it runs one and it ends well; a log that cannot be written stops
    nothing."""
    started = time.monotonic()
    ended = False
    try:
        yield
        ended = True
    except SystemExit as left:  # so does the process that started others, when all of them ended well
        ended = left.code in (0, None)
        raise
    finally:
        if ended and (stage := _stage()):
            line = {
                "stage": stage,
                "seconds": round(time.monotonic() - started, 1),
                "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            }
            with suppress(OSError):
                LOG.parent.mkdir(exist_ok=True)
                with LOG.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line) + "\n")


def latest() -> dict[str, float]:
    """Stage -> seconds of its last execution here, in the order of these; what is no line of the log is passed over."""
    found: dict[str, float] = {}
    with suppress(OSError):
        for text in LOG.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, KeyError, TypeError):
                line = json.loads(text)
                stage, seconds = str(line["stage"]), float(line["seconds"])
                found.pop(stage, None)  # the last execution tells the order
                found[stage] = seconds
    return found


def _stage() -> str | None:
    """As DVC calls it; None: this process is no stage, or one of several that run the same."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = getattr(spec, "name", None) or ""
    if not name.startswith(STAGES) or "RANK" in os.environ or any(item.startswith("-") for item in sys.argv[1:]):
        return None
    return "@".join([name.removeprefix(STAGES), *sys.argv[1:]])
