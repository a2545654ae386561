"""Training on disk's views: transformers' Trainer around the focused step, its curves written by DVCLive."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dvclive import Live
from peft import PeftModel
from torch import Tensor
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from pipeline import tables
from pipeline.core import batching, focus, model
from pipeline.device import device
from pipeline.errors import NumericError
from pipeline.settings import Train

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


class Pair(NamedTuple):
    """The views of one example; `masked` is None when the objective does not read it."""

    example_id: str
    full: tables.Row
    masked: tables.Row | None


class Scheduled(Dataset[Pair]):
    """The training examples in the order of the schedule; only rows that some step uses are held in memory."""

    def __init__(self, batches: Sequence[Sequence[int]], full: Path, masked: Path | None) -> None:
        self._order = [index for batch in batches for index in batch]
        used = set(self._order)
        columns = ["example_id", "input_ids", "prompt_end"]
        self._full = _training_rows(full, tables.FULL_VIEWS, [*columns, "split"], used, None)
        ids = {row["example_id"]: index for index, row in self._full.items()}
        self._masked: dict[int, tables.Row] = {}
        if masked is not None:
            self._masked = _training_rows(masked, tables.MASKED_VIEWS, [*columns, "position_ids"], used, ids)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def num_examples(self) -> int:
        """Distinct examples."""
        return len(self._full)

    def __getitem__(self, place: int) -> Pair:
        index = self._order[place]
        full = self._full[index]
        return Pair(full["example_id"], full, self._masked.get(index))


def context_keys(full: Path) -> list[str]:
    """What makes two training examples share a context, for each: the gold document, or else the whole context."""
    rows = tables.scan(full, tables.FULL_VIEWS, ["split", "document_ids", "gold_position"])
    return [
        row["document_ids"][row["gold_position"]] if row["gold_position"] >= 0 else "\n".join(row["document_ids"])
        for row in rows
        if row["split"] == "train"
    ]


def _training_rows(
    path: Path, table: tables.Table, columns: list[str], used: set[int], index_of: dict[str, int] | None
) -> dict[int, tables.Row]:
    """Rows by their number among the training examples; where the table has no split, `index_of` an example tells."""
    kept: dict[int, tables.Row] = {}
    num_train = 0
    for row in tables.scan(path, table, columns):
        if index_of is not None:
            if row["example_id"] in index_of:
                kept[index_of[row["example_id"]]] = row
        elif row["split"] == "train":
            if num_train in used:
                kept[num_train] = row
            num_train += 1
    return kept


@dataclass(frozen=True)
class Batch:
    """What a step reads. A dataclass: the Trainer would take a tuple apart."""

    example_ids: list[str]
    full: batching.View
    masked: batching.View | None


class FocusTrainer(Trainer):
    """The Trainer with our step, our order, and a stop at the first loss or gradient that is not finite."""

    def __init__(self, objective: focus.Objective, **arguments: Any) -> None:
        super().__init__(**arguments)
        # The step's losses are means already: the Trainer must not scale them again.
        self.model_accepts_loss_kwargs = False
        self._objective = objective
        self._sums: dict[str, Tensor] = {}
        self._num_summed = 0
        self._example_ids: list[str] = []

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        ordered: Any = self.train_dataset
        return SequentialSampler(ordered)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        batch: Batch = inputs["batch"]
        masked = batch.masked.to(self.args.device) if batch.masked is not None else None
        output = focus.step(model, batch.full.to(self.args.device), masked, self._objective)
        self._example_ids = batch.example_ids
        if not torch.isfinite(output.loss):
            raise NumericError(
                f"loss is {output.loss.item()} at step {self.state.global_step + 1} with examples "
                f"{', '.join(batch.example_ids)}; lower train.learning_rate, or look at these examples"
            )
        for name, value in output.logged.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._num_summed += 1
        return output.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the parts of the loss, as means since the last log."""
        grad_norm = logs.get("grad_norm", 0.0)
        if not np.isfinite(grad_norm):
            raise NumericError(
                f"gradient norm is {grad_norm} at step {self.state.global_step} with examples "
                f"{', '.join(self._example_ids)}; lower train.learning_rate, or look at these examples"
            )
        if self._num_summed:
            logs |= {name: (total / self._num_summed).item() for name, total in self._sums.items()}
            self._sums, self._num_summed = {}, 0
        super().log(logs, start_time)


class _Curves(TrainerCallback):
    """The named curves as DVC plots; timings stay out, so that equal runs write equal files."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        known = {name: logs[name] for name in CURVES if name in logs}
        if "loss" not in known:
            return
        self._live.step = state.global_step
        for name, value in known.items():
            self._live.log_metric(f"train/{name}", value)
        self._live.make_summary()


def fit(
    adapted: PeftModel,
    dataset: Scheduled,
    objective: focus.Objective,
    settings: Train,
    pad_id: int,
    live: Live,
    state: Path,
) -> None:
    """Train the adapter in place over the scheduled examples. `state` is a folder for what the Trainer writes."""

    def collate(pairs: Sequence[Pair]) -> dict[str, Batch]:
        full = [np.asarray(pair.full["input_ids"], dtype=np.int32) for pair in pairs]
        ends = [pair.full["prompt_end"] for pair in pairs]
        view = batching.pad(full, [np.arange(len(ids), dtype=np.int32) for ids in full], ends, pad_id)
        masked = [pair.masked for pair in pairs if pair.masked is not None]
        masked_view = None
        if masked:
            masked_view = batching.pad(
                [np.asarray(row["input_ids"], dtype=np.int32) for row in masked],
                [np.asarray(row["position_ids"], dtype=np.int32) for row in masked],
                [row["prompt_end"] for row in masked],
                pad_id,
            )
        return {"batch": Batch([pair.example_id for pair in pairs], view, masked_view)}

    attention, rest = model.parameter_groups(adapted)
    groups = [
        {"params": attention, "lr": settings.learning_rate},
        {"params": rest, "lr": settings.embedding_learning_rate},
    ]
    arguments = TrainingArguments(
        output_dir=str(state),
        max_steps=settings.steps,
        per_device_train_batch_size=settings.batch_examples,
        lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_steps,
        max_grad_norm=settings.max_grad_norm,
        activation_checkpointing=settings.activation_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=settings.log_every,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        disable_tqdm=not sys.stderr.isatty(),
        seed=settings.seed,
        use_cpu=device().type == "cpu",
    )
    trainer = FocusTrainer(
        objective,
        model=adapted,
        args=arguments,
        data_collator=collate,
        train_dataset=dataset,
        optimizers=(torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0), None),
        callbacks=[_Curves(live)],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
