"""The training loop: steps, curves, checkpoints, a clean stop; on one process or many."""

import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from tqdm import tqdm

from pipeline.common import files
from pipeline.model import causal_lm, lora
from pipeline.model.distributed import Processes
from pipeline.runtime import curves
from pipeline.runtime.errors import NumericError, ResourceError
from pipeline.runtime.settings import TrainSettings
from pipeline.runtime.trackers import Trackers
from pipeline.training import checkpoint, grad_cache
from pipeline.training.dataset import StepBatch, TrainingDataset
from pipeline.training.objective import Encoder, Objective

METRICS = "metrics.json"
PACKAGES = ("accelerate", "dvc", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")
_TRAINABLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


class TrainingPoint(NamedTuple):
    """The curves at one step: means over the steps since the point before."""

    step: int
    values: dict[str, float]


class TrainOutput(NamedTuple):
    """The result of a training run."""

    weights: dict[str, Tensor] | None
    """All weights of the network by name, where the network itself holds only a shard of them; else None."""
    points: list[TrainingPoint]


def fit(
    network: torch.nn.Module,
    dataset: TrainingDataset,
    objective: Objective,
    settings: TrainSettings,
    *,
    pad_id: int,
    processes: Processes,
    checkpoints: checkpoint.Checkpoints | None,
    trackers: Trackers,
    live: Path | None = None,
) -> TrainOutput:
    """Train the adapter on the batches of `dataset`, in place where its weights are not sharded.

    The newest checkpoint is resumed. SIGTERM or SIGINT ends the loop after the current step, with a checkpoint.

    Args:
        checkpoints: None in all processes but the first.
        live: folder that gets the curves at every point, for `dvc exp show` and editors that watch it.

    Raises:
        NumericError: a loss or the gradient's norm is not finite.
        ResourceError: out of memory.
        KeyboardInterrupt: a signal ended the loop.
    """
    decoder = causal_lm.unwrap(network)
    if settings.activation_checkpointing:
        decoder.activation_checkpointing_enable({"use_reentrant": False})
    network.train()
    encoder = processes.prepare(Encoder(network, objective), decoder._no_split_modules)
    run = _Run(encoder, _optimizer(network, settings), settings)
    state = processes.broadcast(checkpoints.latest() if checkpoints is not None else None)
    if state is not None:
        run.load_state_dict(state)
        if processes.is_main:
            print(f"resumed after step {run.done:,} of {settings.steps:,}", file=sys.stderr)
    for point in run.points:
        trackers.log(point.step, point.values)
    saved_at, every = time.monotonic(), checkpoint.interval()
    with (
        interruptible() as interrupt,
        tqdm(total=settings.steps, initial=run.done, desc="train", unit=" steps", disable=None) as bar,
    ):
        while run.done < settings.steps:
            step = run.done
            _seed(settings.seed, step, processes.rank)
            batch = dataset.batch(step, settings.batch_tokens, pad_id, processes.rank, processes.world_size)
            batch = batch.to(processes.device)
            with _out_of_memory_named(batch, keeps_graph=objective.contrastive > 0 and settings.negatives == "graph"):
                losses = grad_cache.accumulate(encoder, batch, objective, settings.negatives, processes)
            grad_norm = processes.clip_grad_norm(encoder.parameters(), settings.max_grad_norm)
            _require_finite(losses, grad_norm, step, *dataset.example_ids_of(step))
            run.advance(losses, grad_norm)
            if run.points and run.points[-1].step == run.done:
                if live is not None:
                    with suppress(OSError):  # a disk that is full ends the training at its checkpoint, with a line
                        write_curves(run.points, live)
                trackers.log(run.done, run.points[-1].values)
                bar.set_postfix(loss=f"{run.points[-1].values['loss']:.3f}")
            bar.update()
            stop = processes.any(interrupt.requested)
            due = processes.any(time.monotonic() - saved_at >= every)
            # Also after the last step: a disk that is full when the adapter is written must not cost the training.
            if stop or due or run.done == settings.steps:
                state = run.state_dict()  # all processes collect what is sharded; one writes
                if checkpoints is not None:
                    checkpoints.save(run.done, state)
                saved_at = time.monotonic()
            if stop:
                raise KeyboardInterrupt
    return TrainOutput(_all_weights(encoder) if processes.sharded else None, run.points)


class _Run:
    """The state that changes from step to step, and that a checkpoint holds."""

    def __init__(self, encoder: Any, optimizer: torch.optim.Optimizer, settings: TrainSettings) -> None:
        self.done = 0
        """Finished steps."""
        self.points: list[TrainingPoint] = []
        self._encoder, self._optimizer, self._settings = encoder, optimizer, settings
        schedule = {"constant": "constant_with_warmup"}.get(settings.schedule, settings.schedule)
        self._scheduler = transformers.get_scheduler(schedule, optimizer, settings.warmup_steps, settings.steps)
        self._sums: dict[str, Tensor] = {}
        self._num_summed = 0

    def advance(self, losses: grad_cache.StepLosses, grad_norm: float) -> None:
        """Step the optimizer with the accumulated gradients; every `log_every` steps, append a point to the curves.

        Raises:
            ValueError: a curve is not in the table of curves.
        """
        learning_rate = self._scheduler.get_last_lr()[0]
        self._optimizer.step()
        self._scheduler.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.done += 1
        for name, value in losses.logged.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().cpu()
        self._num_summed += 1
        if self.done % self._settings.log_every == 0 or self.done == self._settings.steps:
            values = {name: (total / self._num_summed).item() for name, total in self._sums.items()}
            values |= {"grad_norm": grad_norm, "learning_rate": learning_rate}
            curves.require_known(set(values))
            self.points.append(TrainingPoint(self.done, values))
            self._sums, self._num_summed = {}, 0

    def state_dict(self) -> dict[str, Any]:
        """Return the state on the CPU; of the network only the trainable parameters."""
        network, optimizer = get_state_dict(self._encoder, self._optimizer, options=_TRAINABLE)
        return {
            "done": self.done,
            "network": network,
            "optimizer": optimizer,
            "scheduler": self._scheduler.state_dict(),
            "points": [tuple(point) for point in self.points],
            "sums": self._sums,
            "num_summed": self._num_summed,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        set_state_dict(
            self._encoder,
            self._optimizer,
            model_state_dict=state["network"],
            optim_state_dict=state["optimizer"],
            options=_TRAINABLE,
        )
        self._scheduler.load_state_dict(state["scheduler"])
        self.done, self._sums, self._num_summed = state["done"], state["sums"], state["num_summed"]
        self.points = [TrainingPoint(*point) for point in state["points"]]


def write_curves(points: list[TrainingPoint], folder: Path) -> None:
    """Write the curves as DVC plots, the newest point as a DVC metric. Without times, equal runs write equal files."""
    for name in curves.NAMES:
        if found := [f"{point.step}\t{point.values[name]}\n" for point in points if name in point.values]:
            files.write_text(folder / f"plots/metrics/train/{name}.tsv", "".join([f"step\t{name}\n", *found]))
    files.write_json(folder / METRICS, {"step": points[-1].step, **points[-1].values})


def versions() -> dict[str, str]:
    """Return the versions of Python and of PACKAGES by name, which each training writes beside its curves."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


class Interrupt:
    """Whether a signal has asked the loop to stop."""

    requested = False


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    """Inside the `with` block, SIGTERM and SIGINT only set a flag for the loop; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: a queue sends it to the launcher and to the processes, and the launcher passes it on.
    """
    interrupt = Interrupt()

    def note(number: int, frame: FrameType | None) -> None:
        if interrupt.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        interrupt.requested = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _optimizer(network: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    attention, rest = lora.parameter_groups(network)
    groups = [
        {"params": attention, "lr": settings.learning_rate},
        {"params": rest, "lr": settings.embedding_learning_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=settings.weight_decay)


def _all_weights(encoder: Any) -> dict[str, Tensor]:
    """Collect all weights of a sharded network on the CPU of the first process."""
    found: Any = get_model_state_dict(encoder, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix("network."): tensor for name, tensor in found.items()}


@contextmanager
def _out_of_memory_named(batch: StepBatch, *, keeps_graph: bool) -> Iterator[None]:
    """Turn an out-of-memory error into a ResourceError with the size of the step and the settings that reduce it."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        micro_batches = [*batch.micro_batches, *batch.distill]
        shapes = [micro_batch.inputs.input_ids_BL.shape for micro_batch in micro_batches]
        rows, tokens = max(shapes, key=lambda shape: shape.numel())
        kept = "all kept at once; set train.negatives to cached, " if keeps_graph else "one at a time; set "
        raise ResourceError(
            f"out of memory in a step of {len(micro_batches)} forwards, the largest of {rows} rows of {tokens:,} "
            f"tokens, {kept}train.batch_tokens lower, train.activation_checkpointing to true, or model.max_tokens lower"
        ) from None


def _seed(seed: int, step: int, rank: int) -> None:
    """Seed torch by step and rank, so that a resumed training draws the same numbers as one without a break."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def _require_finite(
    losses: grad_cache.StepLosses, grad_norm: float, step: int, example_ids: list[str], distill_ids: list[str]
) -> None:
    loss = float(losses.logged["loss"])
    if np.isfinite([grad_norm, loss]).all():
        return
    clm_2B = torch.stack([part for part in (losses.clm_full_B, losses.clm_masked_B) if part is not None])
    finite_B = clm_2B.isfinite().all(dim=0).tolist()
    found = [example_id for example_id, finite in zip(example_ids, finite_B, strict=True) if not finite]
    if not np.isfinite(float(losses.logged.get("distill", 0.0))):
        found += distill_ids  # it is one of them
    named = ", ".join(found or [*example_ids, *distill_ids])
    what = "loss is not finite" if found else f"loss is {loss}, gradient norm is {grad_norm}"
    raise NumericError(
        f"{what} at step {step + 1} with examples {named}; lower train.learning_rate, or look at these examples"
    )
