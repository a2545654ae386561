"""How much memory the device has, and what of it a process of ours holds beside tensors."""

import os
from pathlib import Path

GIB = 2**30
OVERHEAD = {"cpu": 0.6 * GIB, "cuda": 1.0 * GIB}
"""Python, torch and transformers in memory; of a GPU its context and what the allocator cannot use."""
HOARD = {"cpu": 2.0, "cuda": 1.05}
"""Bytes held to bytes in use, of what a step makes in small blocks: of the CPU measured by benchmarks/plan.py (1.6 to
3.1), of CUDA's allocator an assumption."""
_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory(kind: str) -> float:
    """Bytes of the device: of the GPU, or of the machine and the container it runs in."""
    if kind.startswith("cuda"):
        import torch

        return float(torch.cuda.mem_get_info(torch.device(kind))[1])
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in _CGROUPS:
        text = path.read_text().strip() if path.is_file() else ""
        if text.isdigit():
            total = min(total, int(text))
    return float(total)
