"""The training loop: steps, curves, checkpoints, a clean stop; on one process or many."""

import hashlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import peft
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

from pipeline import checkpoints, trackers
from pipeline.core import focus, gradients, model
from pipeline.errors import NumericError
from pipeline.processes import Processes
from pipeline.settings import Train
from pipeline.training_data import TrainingData

CURVES = (
    "loss",
    "clm_full",
    "clm_masked",
    "info_nce",
    "in_batch_accuracy",
    "alignment",
    "alignment_others",
    "grad_norm",
    "learning_rate",
)
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


def identity(settings: Mapping[str, Any], data: list[Path]) -> dict[str, Any]:
    """Everything that the adapter depends on: settings, the bytes of data and code, versions of the libraries."""
    modules = {name: module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "pipeline"}
    code = [Path(path) for _, path in sorted(modules.items()) if path is not None]
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    flat = {
        f"{section}.{name}": value for section, values in settings.items() for name, value in sorted(values.items())
    }
    return {**flat, **versions, "code": _digest(code), **{str(path): _digest([path]) for path in data}}


def _digest(paths: list[Path]) -> str:
    total = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def fit(
    adapted: torch.nn.Module,
    data: TrainingData,
    objective: focus.Objective,
    settings: Train,
    *,
    pad_id: int,
    retained: bool,
    processes: Processes,
    kept: checkpoints.Checkpoints | None,
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
        whole: Any = model.causal_lm(adapted)
        whole.activation_checkpointing_enable({"use_reentrant": False})
    adapted.train()
    encoder: Any = focus.Encoder(adapted, objective.representation)
    encoder = processes.spread(encoder, model.causal_lm(adapted)._no_split_modules)
    optimizer = _optimizer(adapted, settings)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, settings.warmup_steps, settings.steps)
    first_step, points, sums = 0, list[Point](), _Sums()
    state = processes.share(kept.latest() if kept is not None else None)
    if state is not None:
        set_state_dict(
            encoder,
            optimizer,
            model_state_dict=state["model"],
            optim_state_dict=state["optimizer"],
            options=_TRAINABLE,
        )
        schedule.load_state_dict(state["schedule"])
        first_step, sums = state["step"], _Sums(state["sums"], state["num_summed"])
        points = [Point(step, values) for step, values in state["points"]]
        if processes.first:
            print(f"goes on behind step {first_step:,} of {settings.steps:,}", file=sys.stderr)
    for point in points:
        watchers.log(point.step, point.values)
    device = processes.device
    saved_at, every = time.monotonic(), checkpoints.interval()
    with (
        _stoppable() as stop,
        tqdm(total=settings.steps, initial=first_step, desc="train", unit=" steps", disable=None) as bar,
    ):
        for step in range(first_step, settings.steps):
            _seed(settings.seed, step, processes.rank)
            batch = gradients.to(data.batch(step, settings.batch_tokens, pad_id, processes.rank, processes.num), device)
            outcome = gradients.accumulate(encoder, batch, objective, retained, processes)
            grad_norm = processes.clip(encoder.parameters(), settings.max_grad_norm)
            _require_finite(outcome, grad_norm, step, [data.example_ids[index] for index in data.batches[step]])
            learning_rate = schedule.get_last_lr()[0]
            optimizer.step()
            schedule.step()
            optimizer.zero_grad(set_to_none=True)
            sums.add(outcome.logged)
            done = step + 1
            if done % settings.log_every == 0 or done == settings.steps:
                points.append(Point(done, sums.means() | {"grad_norm": grad_norm, "learning_rate": learning_rate}))
                watchers.log(done, points[-1].values)
                bar.set_postfix(loss=f"{points[-1].values['loss']:.3f}")
            bar.update()
            told = processes.any(stop.told)
            due = processes.any(time.monotonic() - saved_at >= every)
            if told or (due and done < settings.steps):
                # All processes collect what is sharded; one writes.
                weights, moments = get_state_dict(encoder, optimizer, options=_TRAINABLE)
                if kept is not None:
                    kept.save(
                        done,
                        {
                            "step": done,
                            "model": weights,
                            "optimizer": moments,
                            "schedule": schedule.state_dict(),
                            "points": [(point.step, point.values) for point in points],
                            "sums": sums.totals,
                            "num_summed": sums.num,
                        },
                    )
                saved_at = time.monotonic()
            if told:
                raise KeyboardInterrupt
    return Fitted(_whole(encoder) if processes.sharded else None, points)


def _whole(encoder: Any) -> dict[str, Tensor]:
    """All weights of the network on the CPU of the first process, collected from all of them."""
    found: Any = get_model_state_dict(encoder, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    return {name.removeprefix("network."): tensor for name, tensor in found.items()}


def write_curves(points: list[Point], folder: Path) -> None:
    """The named curves as DVC plots; timings stay out, so that equal runs write equal files."""
    with Live(str(folder), save_dvc_exp=False, report=None, dvcyaml=None) as live:
        for point in points:
            live.step = point.step
            for name in CURVES:
                if name in point.values:
                    live.log_metric(f"train/{name}", point.values[name])
            live.make_summary()


def _optimizer(adapted: torch.nn.Module, settings: Train) -> torch.optim.Optimizer:
    attention, rest = model.parameter_groups(adapted)
    groups = [
        {"params": attention, "lr": settings.learning_rate},
        {"params": rest, "lr": settings.embedding_learning_rate},
    ]
    return torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)


def _seed(seed: int, step: int, rank: int) -> None:
    """Randomness by step and process, so that a training that goes on draws what one without a break would have."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))


def _require_finite(outcome: gradients.Outcome, grad_norm: float, step: int, example_ids: list[str]) -> None:
    clm_2B = torch.stack([part for part in (outcome.clm_full_B, outcome.clm_masked_B) if part is not None])
    finite = [grad_norm, float(outcome.logged["loss"])]
    if np.isfinite(finite).all():
        return
    found = [name for name, fine in zip(example_ids, clm_2B.isfinite().all(dim=0).tolist(), strict=True) if not fine]
    what = "loss is not finite" if found else f"loss is {finite[1]}, gradient norm is {finite[0]}"
    raise NumericError(
        f"{what} at step {step + 1} with examples {', '.join(found or example_ids)}; lower train.learning_rate, or "
        "look at these examples"
    )


class _Sums:
    """Running sums of the logged scalars."""

    def __init__(self, totals: dict[str, Tensor] | None = None, num: int = 0) -> None:
        self.totals, self.num = dict(totals or {}), num

    def add(self, logged: Mapping[str, Tensor]) -> None:
        for name, value in logged.items():
            self.totals[name] = self.totals.get(name, torch.zeros(())) + value.detach().cpu()
        self.num += 1

    def means(self) -> dict[str, float]:
        found = {name: (total / self.num).item() for name, total in self.totals.items()}
        self.totals, self.num = {}, 0
        return found


class _Stop:
    told = False


@contextmanager
def _stoppable() -> Iterator[_Stop]:
    """Within, SIGTERM and SIGINT are noted once and obeyed between two steps; a second one interrupts at once."""
    stop = _Stop()

    def note(number: int, frame: FrameType | None) -> None:
        if stop.told:
            raise KeyboardInterrupt
        stop.told = True

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
