"""Versions of what computes: each training notes them beside its curves.

A signal that ends a long loop between two of its rounds, with all it has.

The training loop: steps, curves, checkpoints, a clean stop; on one process or many.
"""

import platform
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from dvclive import Live
from torch import Tensor
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from tqdm import tqdm

from pipeline.common import curves
from pipeline.model import causal_lm
from pipeline.model.distributed import Processes
from pipeline.runtime.errors import NumericError, ResourceError
from pipeline.runtime.settings import TrainSettings
from pipeline.training import checkpoint, grad_cache, trackers
from pipeline.training.dataset import Batch, TrainingData
from pipeline.training.objective import Encoder, Objective

PACKAGES = ("accelerate", "dvc", "numpy", "peft", "safetensors", "tokenizers", "torch", "transformers")


def versions() -> dict[str, str]:
    """Name -> version, of Python and PACKAGES."""
    return {"python": platform.python_version(), **{name: metadata.version(name) for name in PACKAGES}}


class Stop:
    """Whether it was told to stop."""

    told = False


@contextmanager
def stoppable() -> Iterator[Stop]:
    """Within, SIGTERM and SIGINT are noted, to be obeyed where it suits; a second Ctrl-C interrupts at once.

    A second SIGTERM does not: a queue sends it to the launcher and to the processes, and the launcher passes it on.
    """
    stop = Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.told and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.told = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


_TRAINABLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)


class Point(NamedTuple):
    """The curves at one step: means since the point before."""

    step: int
    values: dict[str, float]


class Fitted(NamedTuple):
    """What a training leaves."""

    weights: dict[str, Tensor] | None
    """Of the whole network, by name, where the network itself holds only a shard of them."""
    points: list[Point]


def fit(
    adapted: torch.nn.Module,
    data: TrainingData,
    objective: Objective,
    settings: TrainSettings,
    *,
    pad_id: int,
    retained: bool,
    processes: Processes,
    kept: checkpoint.Checkpoints | None,
    watchers: trackers.Watchers,
) -> Fitted:
    """Train the adapter over the batches of `data`, in place where its weights are not sharded.

    Goes on from the newest checkpoint of `kept`. A SIGTERM or SIGINT ends it behind the step in work, with a
    checkpoint.

    Raises:
        NumericError: a loss or the gradient's norm is not finite.
        KeyboardInterrupt: it was told to stop.
    """
    if settings.activation_checkpointing:
        whole: Any = causal_lm.unwrap(adapted)
        whole.activation_checkpointing_enable({"use_reentrant": False})
    adapted.train()
    layers = causal_lm.unwrap(adapted)._no_split_modules
    encoder = processes.spread(Encoder(adapted, objective.representation), layers)
    run = _Run(encoder, _optimizer(adapted, settings), settings)
    state = processes.share(kept.latest() if kept is not None else None)
    if state is not None:
        run.restore(state)
        if processes.first:
            print(f"goes on after step {run.done:,} of {settings.steps:,}", file=sys.stderr)
    for point in run.points:
        watchers.log(point.step, point.values)
    saved_at, every = time.monotonic(), checkpoint.interval()
    with (
        stoppable() as stop,
        tqdm(total=settings.steps, initial=run.done, desc="train", unit=" steps", disable=None) as bar,
    ):
        while run.done < settings.steps:
            step = run.done
            _seed(settings.seed, step, processes.rank)
            batch = data.batch(step, settings.batch_tokens, pad_id, processes.rank, processes.num)
            batch = batch.to(processes.device)
            with _named_shortage(batch, retained):
                outcome = grad_cache.accumulate(encoder, batch, objective, retained, processes)
            grad_norm = processes.clip(encoder.parameters(), settings.max_grad_norm)
            _require_finite(outcome, grad_norm, step, *data.named(step))
            run.advance(outcome, grad_norm)
            if run.points and run.points[-1].step == run.done:
                watchers.log(run.done, run.points[-1].values)
                bar.set_postfix(loss=f"{run.points[-1].values['loss']:.3f}")
            bar.update()
            told = processes.any(stop.told)
            due = processes.any(time.monotonic() - saved_at >= every)
            if told or (due and run.done < settings.steps):
                found = run.state()  # all processes collect what is sharded; one writes
                if kept is not None:
                    kept.save(run.done, found)
                saved_at = time.monotonic()
            if told:
                raise KeyboardInterrupt
    return Fitted(_whole(encoder) if processes.sharded else None, run.points)


class _Run:
    """What changes from step to step, and can be written down and taken up again."""

    def __init__(self, encoder: Any, optimizer: torch.optim.Optimizer, settings: TrainSettings) -> None:
        self.done = 0
        """Steps."""
        self.points: list[Point] = []
        self._encoder, self._optimizer, self._settings = encoder, optimizer, settings
        self._schedule = transformers.get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
        self._sums: dict[str, Tensor] = {}
        self._num_summed = 0

    def advance(self, outcome: grad_cache.Outcome, grad_norm: float) -> None:
        """Take the optimizer's step with the gradients that are there, and the curves' point when it is time."""
        learning_rate = self._schedule.get_last_lr()[0]
        self._optimizer.step()
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.done += 1
        for name, value in outcome.logged.items():
            self._sums[name] = self._sums.get(name, torch.zeros(())) + value.detach().cpu()
        self._num_summed += 1
        if self.done % self._settings.log_every == 0 or self.done == self._settings.steps:
            values = {name: (total / self._num_summed).item() for name, total in self._sums.items()}
            values |= {"grad_norm": grad_norm, "learning_rate": learning_rate}
            curves.require_known(set(values))
            self.points.append(Point(self.done, values))
            self._sums, self._num_summed = {}, 0

    def state(self) -> dict[str, Any]:
        """All of it, on the CPU; of the network only what is trained."""
        network, moments = get_state_dict(self._encoder, self._optimizer, options=_TRAINABLE)
        return {
            "done": self.done,
            "network": network,
            "optimizer": moments,
            "schedule": self._schedule.state_dict(),
            "points": [tuple(point) for point in self.points],
            "sums": self._sums,
            "num_summed": self._num_summed,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""
        set_state_dict(
            self._encoder,
            self._optimizer,
            model_state_dict=state["network"],
            optim_state_dict=state["optimizer"],
            options=_TRAINABLE,
        )
        self._schedule.load_state_dict(state["schedule"])
        self.done, self._sums, self._num_summed = state["done"], state["sums"], state["num_summed"]
        self.points = [Point(*point) for point in state["points"]]


def _whole(encoder: Any) -> dict[str, Tensor]:
    """All weights of the network on the CPU of the first process, collected from all of them."""
    found: Any = get_model_state_dict(encoder, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix("network."): tensor for name, tensor in found.items()}


def write_curves(points: list[Point], folder: Path) -> None:
    """The named curves as DVC plots; timings stay out, so that equal runs write equal files."""
    with Live(str(folder), save_dvc_exp=False, report=None, dvcyaml=None) as live:
        for point in points:
            live.step = point.step
            for name in curves.NAMES:
                if name in point.values:
                    live.log_metric(f"train/{name}", point.values[name])
            live.make_summary()


def _optimizer(adapted: torch.nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    attention, rest = causal_lm.parameter_groups(adapted)
    groups = [
        {"params": attention, "lr": settings.learning_rate},
        {"params": rest, "lr": settings.embedding_learning_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)


@contextmanager
def _named_shortage(batch: Batch, retained: bool) -> Iterator[None]:
    """Running out of memory becomes a ResourceError that says how large the step is and what makes it smaller."""
    try:
        yield
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        packs = [*batch.packs, *batch.taught]
        rows, tokens = max((pack.view.input_ids_BL.shape for pack in packs), key=lambda shape: shape.numel())
        kept = "all kept at once; set train.negatives to cached, " if retained else "one at a time; set "
        raise ResourceError(
            f"out of memory in a step of {len(packs)} forwards, the largest of {rows} rows of {tokens:,} tokens, "
            f"{kept}train.batch_tokens lower, train.activation_checkpointing to true, or model.max_tokens lower"
        ) from None


def _seed(seed: int, step: int, rank: int) -> None:
    """Randomness by step and process, so that a training that goes on draws what one without a break would have."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def _require_finite(
    outcome: grad_cache.Outcome, grad_norm: float, step: int, example_ids: list[str], taught_ids: list[str]
) -> None:
    clm_2B = torch.stack([part for part in (outcome.clm_full_B, outcome.clm_masked_B) if part is not None])
    finite = [grad_norm, float(outcome.logged["loss"])]
    if np.isfinite(finite).all():
        return
    found = [name for name, fine in zip(example_ids, clm_2B.isfinite().all(dim=0).tolist(), strict=True) if not fine]
    if not np.isfinite(float(outcome.logged.get("distill", 0.0))):
        found += taught_ids  # one of these
    named = ", ".join(found or [*example_ids, *taught_ids])
    what = "loss is not finite" if found else f"loss is {finite[1]}, gradient norm is {finite[0]}"
    raise NumericError(
        f"{what} at step {step + 1} with examples {named}; lower train.learning_rate, or look at these examples"
    )
