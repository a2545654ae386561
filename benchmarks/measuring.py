"""Measurements for the benchmarks of training: seconds, memory, equal gradients, goals.

Seconds are CPU seconds of one thread (`time.process_time`); on a GPU, wall-clock seconds between synchronisations.
Memory is the peak of what the step allocates beyond what was allocated before: on the CPU the sum of torch's own
allocations and releases in its profiler (without the workspaces of libraries and the allocator's freed blocks); on a
GPU `torch.cuda.max_memory_allocated`. A step is forward and backward, without gradients before it and without the
optimizer.
"""

import argparse
import datetime
import gc
import json
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # torch's profiler says on stderr that it starts and stops

import numpy as np
import peft
import torch
import transformers
from torch import Tensor

from pipeline.training import objective

Step = Callable[[], Any]
Gradients = dict[str, Tensor]


def seconds_of(step: Step, device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        step()
        torch.cuda.synchronize(device)
        return time.perf_counter() - started
    started = time.process_time()
    step()
    return time.process_time() - started


def peak_mib(step: Step, device: torch.device) -> float:
    """Return the peak MiB that the step allocates beyond what was allocated before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    found: Any = profile.profiler
    changes = [event for event in found.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())])
    return float(held.max(initial=0)) / 2**20


def first_run(
    encoder: objective.Encoder, steps: Mapping[str, Step], device: torch.device
) -> tuple[dict[str, float], dict[str, Gradients]]:
    """Return the peak MiB of each step, and its gradients. This also warms the libraries up."""
    peaks, found = {}, {}
    for name, step in steps.items():
        encoder.zero_grad()
        peaks[name] = peak_mib(step, device)
        found[name] = {
            label: parameter.grad for label, parameter in encoder.named_parameters() if parameter.grad is not None
        }
    encoder.zero_grad()
    return peaks, found


def apart(one: Gradients, other: Gradients) -> float:
    """Return the largest |a - b| / |b| of a parameter's gradients; infinity if only one side has a gradient."""
    if one.keys() != other.keys():
        return float("inf")
    return max(float((one[name] - other[name]).norm() / other[name].norm()) for name in one)


def assert_equal(
    found: Mapping[str, Gradients], pairs: Sequence[tuple[str, str]], tolerance: float
) -> dict[str, float]:
    """Fail unless the gradients of each pair agree; return their differences by "one = other"."""
    differences = {}
    for one, other in pairs:
        difference = differences[f"{one} = {other}"] = apart(found[one], found[other])
        assert difference <= tolerance, f"gradients of {one} and {other} are {difference:.1e} apart"
    return differences


def rounds(
    encoder: objective.Encoder, steps: Mapping[str, Step], num: int, device: torch.device
) -> dict[str, list[float]]:
    """Return the seconds of each step in each round; a round runs every step once."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(num):
        for name, step in steps.items():
            encoder.zero_grad()
            seconds[name].append(seconds_of(step, device))
    encoder.zero_grad()
    return seconds


class Spread(NamedTuple):
    """Median and range of the ratios of the rounds."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def ratio(ones: Sequence[float], others: Sequence[float], times: float = 1.0) -> Spread:
    """Return the spread of `times` x one / other, round by round."""
    ratios = [times * one / other for one, other in zip(ones, others, strict=True)]
    return Spread(statistics.median(ratios), min(ratios), max(ratios))


class Goal(NamedTuple):
    """A bound that was set before the measurement."""

    name: str
    side: Literal["at most", "at least"]
    wanted: float
    reached: float

    @property
    def kept(self) -> bool:
        return self.reached <= self.wanted if self.side == "at most" else self.reached >= self.wanted


def print_goals(goals: Sequence[Goal]) -> None:
    print("\n| goal | wanted | reached | |\n|---|---|---|---|")
    for goal in goals:
        kept = "yes" if goal.kept else "no"
        print(f"| {goal.name} | {goal.side} {goal.wanted:.2f} | {goal.reached:.2f} | {kept} |")


def setting(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the versions and arguments of the measurement."""
    given = {name: str(value) if isinstance(value, torch.device) else value for name, value in vars(arguments).items()}
    return {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "peft": peft.__version__,
        "threads": torch.get_num_threads(),
        "arguments": {name: value for name, value in given.items() if name != "results"},
    }


def write(results: Path | None, found: Mapping[str, Any]) -> None:
    if results:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
