"""The processes of one run: one, or as many as `accelerate launch` or `torchrun` has started.

FOCUS_LAUNCH holds the launcher's command, for example `torchrun --nproc-per-node 8`. It is an environment variable
because it changes no result beyond rounding. A stage that finds it starts itself anew under that command.

Each process holds the whole model (DDP), or a share of every layer (FSDP2) when ACCELERATE_USE_FSDP is true, which
`accelerate launch --use_fsdp` sets. We shard with torch's own `fully_shard`, because accelerate shards on GPUs alone
and the tests should run the code that GPUs run.
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
    """Run the module under the launcher in FOCUS_LAUNCH and exit with its code.

    Without FOCUS_LAUNCH, or within one of the launched processes, do nothing.

    Raises:
        ConfigError: the command cannot be started, or it starts processes without a rank.
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
    """Return the launcher's exit code. SIGTERM is passed on; a Ctrl-C reaches the whole group by itself."""
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
    """This process among those of a run (ranks 0 to `world_size` - 1), and what they send each other."""

    def __init__(self) -> None:
        asked = os.environ.pop(SHARD, "").lower() in ("true", "1")  # else accelerate would shard by itself
        self._accelerator = Accelerator(cpu=device().type == "cpu")
        self.device: torch.device = self._accelerator.device
        self.world_size: int = self._accelerator.num_processes
        self.rank: int = self._accelerator.process_index
        self.sharded = asked and self.world_size > 1
        """The weights of each layer are spread over the processes."""

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0, which alone writes files and prints."""
        return self.rank == 0

    def prepare(self, encoder: Module, layers: Sequence[str]) -> Any:
        """Replicate the encoder over the processes, or shard it: each module of the classes `layers`, then the rest.

        Make the optimizer of the parameters of what is returned.
        """
        if not self.sharded:
            return self._accelerator.prepare_model(encoder)
        for module in encoder.modules():
            if type(module).__name__ in layers:
                fully_shard(module)
        return fully_shard(encoder)

    def no_sync(self, encoder: Any) -> AbstractContextManager[None]:
        """Inside the `with` block, gradients stay with this process until a later backward sends them."""
        return _no_gradient_sync(encoder) if self.sharded else self._accelerator.no_sync(encoder)

    def clip_grad_norm(self, parameters: Iterable[Tensor], max_norm: float) -> float:
        """Scale the gradients down to `max_norm`, taken over all shards, and return the norm before."""
        norm = torch.nn.utils.clip_grad_norm_(parameters, max_norm)
        return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)

    def gather(self, own: Tensor) -> Tensor:
        """Concatenate the tensors of all processes by rank, without gradient; their shapes must be equal."""
        own = own.detach().contiguous()
        if self.world_size == 1:
            return own
        found = [torch.empty_like(own) for _ in range(self.world_size)]
        distributed.all_gather(found, own)
        return torch.cat(found)

    def gather_dicts(self, own: Mapping[int, Any]) -> dict[int, Any]:
        """Merge the entries of all processes into one dict."""
        found: list[Any] = [dict(own)] * self.world_size
        if self.world_size > 1:
            distributed.all_gather_object(found, dict(own))
        return {key: value for part in found for key, value in part.items()}

    def broadcast(self, own: Any) -> Any:
        """Return rank 0's object in all processes."""
        found = [own]
        if self.world_size > 1:
            distributed.broadcast_object_list(found, src=0, device=self.device)
        return found[0]

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in some process."""
        return bool(self.gather(torch.tensor([flag], dtype=torch.int32, device=self.device)).any())

    def close(self) -> None:
        """Leave the group once all processes are here: a process whose peers are gone may be aborted."""
        if distributed.is_initialized():
            distributed.barrier()
            distributed.destroy_process_group()


@contextmanager
def _no_gradient_sync(encoder: Any) -> Iterator[None]:
    encoder.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        encoder.set_requires_gradient_sync(True)
