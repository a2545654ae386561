"""Predicted and measured, side by side: seconds and peak memory of training steps of the small base on random rows.

    python benchmarks/plan.py --rounds 3

Every way runs in a process of its own, because the peak of a process never falls. Measured seconds are CPU seconds of
one optimizer step (forward of both views, backward, clipping, AdamW), the lowest of `--rounds`; measured MiB are what
the process holds at its peak beyond what the libraries hold. The C library's allocator keeps blocks that were freed;
MALLOC_MMAP_THRESHOLD_=65536 in the environment makes it give them back (slowly), and compares what is in use.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

WAYS = (  # name, method, activation checkpointing
    ("vanilla", "vanilla", False),
    ("vanilla, checkpointing", "vanilla", True),
    ("focused", "focused", False),
    ("focused, checkpointing", "focused", True),
)
LABELS, RANK = 8, 8
ROOT = Path(__file__).resolve().parents[1]
BASE = ROOT / "models/tiny-base"


def measure(method: str, checkpointing: bool, batch: int, tokens: int, rounds: int) -> dict[str, float]:
    """Seconds of a step and MiB of the process; in its own process."""
    import numpy as np
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.model import collator, lora
    from pipeline.model.distributed import Processes
    from pipeline.training import grad_cache
    from pipeline.training.dataset import MicroBatch, StepBatch
    from pipeline.training.objective import VANILLA, Encoder, Objective

    torch.set_num_threads(1)
    torch.manual_seed(0)
    network: Any = lora.add_adapter(
        AutoModelForCausalLM.from_pretrained(BASE),
        rank=RANK, alpha=16, dropout=0.0, embedding="lora", norms=True, mask_id=3,
    ).train()  # fmt: skip
    if checkpointing:
        network.activation_checkpointing_enable({"use_reentrant": False})
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad])
    objective = VANILLA if method == "vanilla" else Objective(1.0, 1.0, 0.1, 0.05, "last_prompt")
    draw = np.random.default_rng(0)
    # One row is shorter: as in training, the batch has padding and so an explicit mask.
    lengths = [tokens] * (batch - 1) + [tokens - 1]
    views = [
        collator.pad(
            [draw.integers(4, 2000, length).astype(np.int32) for length in lengths],
            [np.arange(length, dtype=np.int32) for length in lengths],
            [length - LABELS for length in lengths],
            2,
        )
        for _ in range(2)
    ]
    # What the libraries take at their first step is not the step's.
    warm = collator.pad([np.array([4, 5, 6], dtype=np.int32)], [np.arange(3, dtype=np.int32)], [2], 2)
    encoder = Encoder(network, objective)
    encoder(warm).loss_E.sum().backward()
    made = StepBatch(
        [
            MicroBatch(view, torch.arange(batch) + number * batch)
            for number, view in enumerate(views[: 1 + objective.reads_masked])
        ],
        batch, batch * LABELS, batch * LABELS, None,
    )  # fmt: skip
    before = _resident() - sum(p.numel() * p.element_size() for p in network.parameters()) / 2**20
    best, processes = float("inf"), Processes()
    for _ in range(rounds + 1):
        started = time.process_time()
        optimizer.zero_grad()
        grad_cache.accumulate(encoder, made, objective, "graph", processes)
        torch.nn.utils.clip_grad_norm_([p for p in network.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        best = min(best, time.process_time() - started)
    return {"seconds": best, "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before}


def predict(method: Any, checkpointing: bool, batch: int, tokens: int, machine: Any) -> dict[str, float]:
    """Seconds of the same step and MiB of its process, by the plan's arithmetic."""
    from pipeline.runtime import config
    from pipeline.tools.plan import workload
    from pipeline.tools.plan.forecast import Plan

    rows = workload.Rows(batch, batch, tokens, tokens, 0, LABELS)
    work = workload.Workload("random rows", rows, rows, 1.0, 1.0, 0, 0.0)
    plan = Plan(config.load(root=ROOT), _shape(), work, machine).changed(
        {
            "model.max_tokens": tokens,
            "lora.rank": RANK,
            "train.steps": 1,
            "train.batch_examples": batch,
            "train.batch_tokens": batch * tokens,
            "train.questions_per_document": 1,
            "train.negatives": "graph",
            "train.activation_checkpointing": checkpointing,
        }
    )
    (estimate,) = [each for each in plan.train() if each.name == f"train@{method}"]
    return {"seconds": estimate.seconds, "mib": (estimate.peak - machine.overhead) / 2**20}


def _shape() -> Any:
    from pipeline.tools.plan import model_shape

    return model_shape.parse(json.loads((BASE / "config.json").read_text()), 4, str(BASE))


def _resident() -> float:
    """MiB that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--tokens", type=int, default=932, help="tokens of a row")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", choices=[name for name, *_ in WAYS], help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    ways = {name: way for name, *way in WAYS}
    if given.one:
        print(json.dumps(measure(*ways[given.one], given.batch, given.tokens, given.rounds)))
        return []
    from pipeline.tools.plan import hardware

    machine = hardware.find("float32", _shape().hidden, _shape().intermediate)
    if "MALLOC_MMAP_THRESHOLD_" in os.environ:  # freed blocks go back to the system at once: what is in use is held
        machine = machine._replace(hoard=1.0)
    print(f"{given.batch} rows of {given.tokens} tokens, models/tiny-base, float32, one thread; {machine.name}\n")
    print("| step | predicted s | measured s | ratio | predicted MiB | measured MiB | ratio |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    settings = ["--batch", str(given.batch), "--tokens", str(given.tokens), "--rounds", str(given.rounds)]
    for name, way in ways.items():
        predicted = predict(*way, given.batch, given.tokens, machine)
        command = [sys.executable, __file__, "--one", name, *settings]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        measured = json.loads(done.stdout.splitlines()[-1])
        row = {"way": name, "predicted": predicted, "measured": measured}
        row |= {f"{unit}_ratio": predicted[unit] / measured[unit] for unit in measured}
        print(
            f"| {name} | {predicted['seconds']:.2f} | {measured['seconds']:.2f} | {row['seconds_ratio']:.2f} "
            f"| {predicted['mib']:,.0f} | {measured['mib']:,.0f} | {row['mib_ratio']:.2f} |",
            flush=True,
        )
        rows.append(row)
    return rows


if __name__ == "__main__":
    main()
