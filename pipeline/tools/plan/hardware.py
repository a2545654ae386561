"""The machine that a plan is made for: measured in a second, or given by the environment.

FOCUS_TFLOPS   TFLOP/s of a large matrix product in the model's number format (H200, bfloat16: 989)
FOCUS_GIB      GiB of memory (H200: 139)
"""

import os
import time
from collections.abc import Callable

from pipeline.runtime.errors import ConfigError
from pipeline.tools.plan import device_memory
from pipeline.tools.plan.device_memory import GIB, HOARD, OVERHEAD
from pipeline.tools.plan.forecast import Hardware

FLOPS_PER_BYTE = 206
"""Of a GPU whose memory speed is not measured: an H200's 989 TFLOP/s over 4.8 TB/s."""
MEMORY_THREADS = 4  # so many keep a CPU's memory busy
_SECONDS = 0.3  # of each measurement


def find(dtype: str, hidden: int, intermediate: int) -> Hardware:
    """The device of FOCUS_DEVICE (or what stands in for it), measured with matrices as wide as the model's.

    Raises:
        ConfigError: FOCUS_TFLOPS or FOCUS_GIB is no positive number, or FOCUS_DEVICE names nothing that is here.
    """
    tera, gib = _given("FOCUS_TFLOPS"), _given("FOCUS_GIB")
    if tera is not None and gib is not None:
        flops = tera * 1e12
        return Hardware(
            f"{tera:g} TFLOP/s (FOCUS_TFLOPS)",
            flops,
            flops / FLOPS_PER_BYTE,
            gib * GIB,
            OVERHEAD["cuda"],
            HOARD["cuda"],
        )
    from pipeline.common.device import device

    on = device()
    flops, bandwidth = _measured(str(on), dtype, hidden, intermediate)
    name = f"{on.type}, {flops / 1e12:.3g} TFLOP/s measured in {dtype}"
    if tera is not None:
        flops, bandwidth = tera * 1e12, tera * 1e12 / FLOPS_PER_BYTE
        name = f"{tera:g} TFLOP/s (FOCUS_TFLOPS)"
    held = gib * GIB if gib is not None else device_memory.memory(str(on))
    return Hardware(name, flops, bandwidth, held, OVERHEAD[on.type], HOARD[on.type])


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


def _measured(kind: str, dtype: str, hidden: int, intermediate: int) -> tuple[float, float]:
    """FLOP/s of a matrix product of the model's own width, and byte/s of a copy.

    On a CPU one thread is measured by the seconds it computed, and counted once for each thread: what other processes
    do meanwhile, which can slow several threads by far more than their share, says nothing of the machine.
    """
    import torch

    on, wide = torch.device(kind), {"dtype": getattr(torch, dtype), "device": kind}
    rows, num_threads = (2048, torch.get_num_threads()) if on.type == "cpu" else (16_384, 1)

    def clock() -> float:
        if on.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(on)
        return time.perf_counter()

    left, right = torch.ones(rows, hidden, **wide), torch.ones(hidden, intermediate, **wide)
    product = torch.empty(rows, intermediate, **wide)
    source = torch.ones((64 if on.type == "cpu" else 1024) << 20, dtype=torch.uint8, device=on)
    target = torch.empty_like(source)
    if on.type == "cpu":
        torch.set_num_threads(1)
    try:
        products = _rate(lambda: torch.mm(left, right, out=product), clock)
        copies = _rate(lambda: target.copy_(source), clock)
    finally:
        if on.type == "cpu":
            torch.set_num_threads(num_threads)
    flops = 2.0 * rows * hidden * intermediate * products * num_threads
    return flops, 2.0 * source.numel() * copies * min(num_threads, MEMORY_THREADS)


def _rate(work: Callable[[], object], clock: Callable[[], float]) -> float:
    """Times per second, at its best: what disturbs it only slows it down."""
    work()
    best, until = float("inf"), time.perf_counter() + _SECONDS
    while time.perf_counter() < until or best == float("inf"):
        started = clock()
        work()
        best = min(best, clock() - started)
    return 1.0 / max(best, 1e-6)
