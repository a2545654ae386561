"""The processes of one training: one, or as many as `accelerate launch` or `torchrun` has started.

FOCUS_LAUNCH is how many there are and where, for example `torchrun --nproc-per-node 8`: environment, because it changes
no result beyond rounding. A stage that finds it starts itself anew under that command.
"""

import os
import shlex
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, distributed

from pipeline.device import device
from pipeline.errors import ConfigError

LAUNCH = "FOCUS_LAUNCH"


def launch(module: str, arguments: Sequence[str]) -> None:
    """Under FOCUS_LAUNCH, replace this process by the processes that it starts; else, or within one, do nothing.

    Raises:
        ConfigError: there is no such command.
    """
    command = shlex.split(os.environ.get(LAUNCH) or "")
    if not command or "RANK" in os.environ:
        return
    try:
        os.execvp(command[0], [*command, "-m", module, *arguments])
    except OSError as error:
        raise ConfigError(
            f"{LAUNCH} starts with {command[0]!r} ({error.strerror}); give a launcher on the PATH, such as `torchrun "
            "--nproc-per-node 2`, or unset it"
        ) from None


class Processes:
    """What a process knows of the others, through accelerate; see gradients.Processes."""

    def __init__(self) -> None:
        self.accelerator = Accelerator(cpu=device().type == "cpu")
        self.num: int = self.accelerator.num_processes
        self.rank: int = self.accelerator.process_index
        self.sharded: bool = self.accelerator.is_fsdp2
        """The layers' weights are spread over the processes (FSDP2)."""

    def prepare(self, encoder: Any, optimizer: Any, layers: Sequence[str]) -> tuple[Any, Any]:
        """Replicate or shard the encoder over the processes, as the launcher asks; `layers` are sharded one by one."""
        encoder._no_split_modules = list(layers)  # where accelerate looks for them
        prepared: tuple[Any, Any] = self.accelerator.prepare(encoder, optimizer)
        return prepared

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

    def apart(self, encoder: Any) -> AbstractContextManager[None]:
        context: AbstractContextManager[None] = self.accelerator.no_sync(encoder)
        return context

    def any(self, flag: bool) -> bool:
        """Whether it holds in some process."""
        return bool(self.gather(torch.tensor([flag], dtype=torch.int32, device=self.accelerator.device)).any())

    def close(self) -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()
