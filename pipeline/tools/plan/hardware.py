"""The machine that a plan is made for: measured in a second, or given by the environment.

FOCUS_TFLOPS   TFLOP/s of a large matrix product in the model's number format (H200, bfloat16: 989)
FOCUS_GIB      GiB of memory (H200: 139)
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

from pipeline.runtime.errors import ConfigError

GIB = 2**30
OVERHEAD = {"cpu": 0.6 * GIB, "cuda": 1.0 * GIB, "mps": 1.0 * GIB}
"""Python, torch and transformers in memory; on a GPU its context and what the allocator cannot use."""
HOARD = {"cpu": 2.0, "cuda": 1.05, "mps": 1.05}
"""Bytes held for each byte in use, where a step's blocks are small. benchmarks/plan.py measured 1.6 to 3.1 on the CPU;
the values of other allocators are assumptions."""
FLOPS_PER_BYTE = 206
"""FLOP/s over byte/s of a GPU whose memory speed is not measured: an H200's 989 TFLOP/s over 4.8 TB/s."""
MEMORY_THREADS = 4
"""Threads that keep a CPU's memory busy."""
_SECONDS = 0.3  # of each measurement
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


class Hardware(NamedTuple):
    """The machine that a plan is made for."""

    name: str
    kind: str
    """cpu, cuda or mps."""
    flops: float
    """FLOP/s of a large matrix product in the model's number format."""
    bandwidth: float
    """Bytes of memory read or written in a second."""
    memory: float
    """Bytes of memory in all."""
    overhead: float
    """Bytes that Python and its libraries take before anything is loaded."""
    hoard: float = 1.0
    """Bytes held for each byte in use, where a step's blocks are below cost.HOARDED_BYTES."""


def find(dtype: str, hidden: int, intermediate: int) -> Hardware:
    """Measure the device that runs would use, with matrices as wide as the model's, or take the environment's word.

    Raises:
        ConfigError: FOCUS_TFLOPS or FOCUS_GIB is no positive number, or FOCUS_DEVICE names no device of this machine.
    """
    tera, gib = _given("FOCUS_TFLOPS"), _given("FOCUS_GIB")
    on = "cuda"
    if tera is None or gib is None:
        from pipeline.common.device import device  # torch is imported only to measure

        on = str(device())
    kind = on.split(":")[0]
    if tera is not None:
        flops, bandwidth, name = tera * 1e12, tera * 1e12 / FLOPS_PER_BYTE, f"{tera:g} TFLOP/s (FOCUS_TFLOPS)"
    else:
        flops, bandwidth = _measured(on, dtype, hidden, intermediate)
        name = f"{kind}, {flops / 1e12:.3g} TFLOP/s measured in {dtype}"
    memory = gib * GIB if gib is not None else _memory(on)
    return Hardware(name, kind, flops, bandwidth, memory, OVERHEAD[kind], HOARD[kind])


def _given(name: str) -> float | None:
    text = os.environ.get(name)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise ConfigError(f"{name} is {text!r}; it must be a positive number, for instance 989 (or unset it)")
    return value


def _memory(device: str) -> float:
    """Bytes of the GPU, or of the machine and the container that it runs in."""
    if device.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(torch.device(device))[1])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUPS:
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return float(total)


def _measured(device: str, dtype: str, hidden: int, intermediate: int) -> tuple[float, float]:
    """Measure FLOP/s of a matrix product of the model's own width, and byte/s of a copy.

    On a CPU one thread is measured by the seconds it computed, and counted once for each thread: other processes can
    slow several threads by far more than their share, which tells nothing about the machine. The best rate counts,
    because a disturbance only lowers it.
    """
    import torch
    from torch.utils import benchmark

    cpu, wide = device.startswith("cpu"), {"dtype": getattr(torch, dtype), "device": device}
    rows, num_threads = (2048, torch.get_num_threads()) if cpu else (16_384, 1)
    source = torch.ones((64 if cpu else 1024) << 20, dtype=torch.uint8, device=device)
    tensors = {
        "left": torch.ones(rows, hidden, **wide),
        "right": torch.ones(hidden, intermediate, **wide),
        "product": torch.empty(rows, intermediate, **wide),
        "source": source,
        "target": torch.empty_like(source),
    }

    def per_second(statement: str) -> float:
        clock = time.process_time if cpu else benchmark.timer
        timer = benchmark.Timer(statement, globals=tensors, timer=clock, num_threads=1)
        return 1.0 / min(timer.blocked_autorange(min_run_time=_SECONDS).times)

    flops = 2.0 * rows * hidden * intermediate * per_second("torch.mm(left, right, out=product)") * num_threads
    return flops, 2.0 * source.numel() * per_second("target.copy_(source)") * min(num_threads, MEMORY_THREADS)
