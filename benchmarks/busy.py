"""Seconds of a short training on a quiet machine and on a busy one, by the settings of OpenMP.

    python benchmarks/busy.py [--steps 12] [--rounds 3]

Each run is a process of its own, start included: training steps of a small model on random rows, as the default run
has them. Beside it nothing works, or two loops that compute without a pause, or two torch processes. Ways and rounds
are interleaved; the table has medians of wall-clock seconds and the ratio to the quickest quiet way.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

WAYS = {
    "OpenMP's own": {"GOMP_SPINCOUNT": "300000"},  # of libgomp where no policy is set; pipeline/__init__.py sets one
    "passive, the default here": {},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
BUSY_LOOP = "while True: pass"
TORCH_LOOP = "import torch\na = torch.rand(600, 600)\nwhile True: a = (a @ a).clamp(0, 1)"
BESIDE = {"nothing": [], "two busy loops": [BUSY_LOOP] * 2, "two torch processes": [TORCH_LOOP] * 2}


def train(steps: int, tokens: int) -> None:
    """So many steps of a small model, 8 rows of `tokens` each: in a process of its own."""
    import torch

    from benchmarks import random_training as made
    from pipeline.training.objective import VANILLA

    network = made.network(
        vocab=2048, hidden=128, layers=4, heads=4, kv_heads=2, tokens=tokens, dtype=torch.float32, device="cpu"
    )
    encoder = made.encoder_of(network)
    rows = made.examples(8, tokens=tokens, answer=8, chunks=12, keep=2, vocab=2048).full
    batch = made.batch(8, rows, batch_tokens=8 * tokens)
    optimizer = torch.optim.AdamW([parameter for parameter in encoder.parameters() if parameter.requires_grad])
    for _ in range(steps):
        optimizer.zero_grad()
        made.accumulate(encoder, batch, VANILLA)
        optimizer.step()


@contextmanager
def beside(programs: Sequence[str]) -> Iterator[None]:
    """Keep these programs at work."""
    working = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    try:
        time.sleep(3 if programs else 0)  # until all have started
        yield
    finally:
        for process in working:
            process.kill()
            process.wait()


def seconds(way: dict[str, str], steps: int, tokens: int) -> float:
    command = [sys.executable, __file__, "--child", "--steps", str(steps), "--tokens", str(tokens)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    started = time.monotonic()
    subprocess.run(command, check=True, env=inherited | way)
    return time.monotonic() - started


def main(arguments: list[str] | None = None) -> dict[tuple[str, str], list[float]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--tokens", type=int, default=932, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.child:
        train(given.steps, given.tokens)
        return {}
    took: dict[tuple[str, str], list[float]] = {}
    for _ in range(given.rounds):
        for load, programs in BESIDE.items():
            with beside(programs):
                for name, way in WAYS.items():
                    took.setdefault((name, load), []).append(seconds(way, given.steps, given.tokens))
    quiet = min(statistics.median(took[name, "nothing"]) for name in WAYS)
    print(
        f"{given.steps} steps of 8 rows of {given.tokens} tokens, {os.cpu_count()} processors, {given.rounds} rounds\n"
    )
    print("| OpenMP | beside | seconds, median (lowest to highest) | times |\n|---|---|---|---|")
    for (name, load), found in took.items():
        median = statistics.median(found)
        print(f"| {name} | {load} | {median:.1f} ({min(found):.1f} to {max(found):.1f}) | {median / quiet:.2f} |")
    return took


if __name__ == "__main__":
    main()
