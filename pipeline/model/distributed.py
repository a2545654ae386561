"""The processes of one training: one, or as many as `accelerate launch` or `torchrun` has started.

FOCUS_LAUNCH is how many there are and where, for example `torchrun --nproc-per-node 8`: environment, because it changes
no result beyond rounding. A stage that finds it starts itself anew under that command.

Each process holds the whole model (DDP), or a share of every layer (FSDP2) when ACCELERATE_USE_FSDP is true, which is
what `accelerate launch --use_fsdp` sets. Sharding is torch's `fully_shard` itself: accelerate has it for GPUs alone,
and what runs on these should be what the tests run.
"""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import Module

from pipeline.common.device import device
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import LAUNCHED

LAUNCH = "FOCUS_LAUNCH"
SHARD = "ACCELERATE_USE_FSDP"


def launch(module: str, arguments: Sequence[str]) -> None:
    """Under FOCUS_LAUNCH, start the module anew as the processes that it names, and leave with their code when they
    end; without it, or within one of them, do nothing.

    Raises:
        ConfigError: the command cannot be started, or starts no processes of a group.
    """
    given = os.environ.get(LAUNCH) or ""
    if not given.strip() or "RANK" in os.environ:
        return
    example = "give a launcher on the PATH, such as `torchrun --nproc-per-node 2`, or unset it"
    if LAUNCHED in os.environ:
        raise ConfigError(f"{LAUNCH} is {given!r}, which starts processes without a RANK; {example}")
    try:
        command = shlex.split(given)
    except ValueError as error:
        raise ConfigError(f"{LAUNCH} is {given!r} ({error}); {example}") from None
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "failure"
        environment = os.environ | {LAUNCHED: str(report)}
        try:
            launcher = subprocess.Popen([*command, "-m", module, *arguments], env=environment)
        except OSError as error:
            raise ConfigError(f"{LAUNCH} starts with {command[0]!r} ({error.strerror}); {example}") from None
        code = _wait(launcher)
        if report.is_file():
            first, _, line = report.read_text(encoding="utf-8").partition(" ")
            print(f"error: {line}", file=sys.stderr)
            code = int(first)
    sys.exit(code if code >= 0 else 128 - code)


def _wait(launcher: subprocess.Popen[bytes]) -> int:
    """Its code; signals are passed on (a Ctrl-C reaches the whole group by itself)."""
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda number, frame: launcher.send_signal(number)),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    try:
        return launcher.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Processes:
    """What a process knows of the others; see gradients.Processes."""

    def __init__(self) -> None:
        asked = os.environ.pop(SHARD, "").lower() in ("true", "1")  # else accelerate would shard by itself
        self._accelerator = Accelerator(cpu=device().type == "cpu")
        self.device: torch.device = self._accelerator.device
        self.num: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.sharded = asked and self.num > 1
        """The weights of each layer are spread over the processes."""

    def spread(self, encoder: Module, layers: Sequence[str]) -> Any:
        """The encoder, replicated or sharded over the processes; sharded are the modules of the classes `layers`, each
        by itself, and the rest. An optimizer is to be made of its parameters after that."""
        if not self.sharded:
            return self._accelerator.prepare_model(encoder)
        for module in encoder.modules():
            if type(module).__name__ in layers:
                fully_shard(module)
        return fully_shard(encoder)

    def clip(self, parameters: Iterable[Tensor], max_norm: float) -> float:
        """Scale the gradients down to `max_norm` together, over all shards; the norm they had."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    @property
    def first(self) -> bool:
        """The one that writes and talks."""
        return self.rank == 0

    def gather(self, own: Tensor) -> Tensor:
        own = own.detach().contiguous()
        if self.num == 1:
            return own
        found = [torch.empty_like(own) for _ in range(self.num)]
        distributed.all_gather(found, own)
        return torch.cat(found)

    def share(self, own: Any) -> Any:
        """What the first process has, in all of them."""
        found = [own]
        if self.num > 1:
            distributed.broadcast_object_list(found, src=0, device=self.device)
        return found[0]

    def collect(self, own: Mapping[int, Any]) -> dict[int, Any]:
        """The entries of all processes together."""
        found: list[Any] = [dict(own)] * self.num
        if self.num > 1:
            distributed.all_gather_object(found, dict(own))
        return {key: value for part in found for key, value in part.items()}

    def apart(self, encoder: Any) -> AbstractContextManager[None]:
        return _unsent(encoder) if self.sharded else self._accelerator.no_sync(encoder)

    def any(self, flag: bool) -> bool:
        """Whether it holds in some process."""
        return bool(self.gather(torch.tensor([flag], dtype=torch.int32, device=self.device)).any())

    def close(self) -> None:
        """Part, none before the others: a process whose peers are gone may be aborted."""
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()


@contextmanager
def _unsent(encoder: Any) -> Iterator[None]:
    """Gradients computed within are kept whole where they are."""
    encoder.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        encoder.set_requires_gradient_sync(True)
