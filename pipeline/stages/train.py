"""Stage train@<method>: a LoRA adapter, by vanilla fine-tuning, focused learning, or what a teacher says."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers import set_seed

from pipeline.common import files, methods, tables
from pipeline.model import causal_lm, distributed, loading
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import run
from pipeline.runtime.settings import Settings, TrainSettings
from pipeline.training import checkpoint, sampler, trackers, trainer
from pipeline.training.dataset import SPLITS, Taught, TrainingData, context_keys
from pipeline.training.objective import VANILLA, Objective

CURVES = Path("reports/train")
CHECKPOINTS = loading.MODELS / ".checkpoints"


def main() -> None:
    method = sys.argv[1] if len(sys.argv) == 2 else ""
    if method not in methods.TRAINED:
        given = " ".join(sys.argv[1:]) or "none"
        raise ConfigError(f"train takes one method, got {given}; choose from {', '.join(methods.TRAINED)}")
    settings = config.load(f"train@{method}")
    match method:
        case methods.VANILLA:
            train_adapter(method, settings, VANILLA)
        case methods.FOCUSED:
            train_adapter(method, settings, _focused(settings))
        case methods.DISTILL:
            objective = VANILLA._replace(full=settings.distill.labelled, taught=settings.distill.weight)
            train_adapter(method, settings, objective, settings.distill.batch_questions)


def _focused(settings: Settings) -> Objective:
    contrastive = settings.contrastive
    return Objective(
        full=settings.views.full,
        masked=settings.views.masked,
        consistency=settings.views.consistency,
        contrastive=contrastive.weight,
        temperature=contrastive.temperature,
        representation=contrastive.representation,
        same_document=contrastive.same_document,
    )


def train_adapter(
    method: str,
    settings: Settings,
    objective: Objective,
    batch_questions: int = 0,
) -> None:
    """Train, then put adapter and curves in their place; until then the earlier ones stay.

    `batch_questions` of what the teacher said stand in each step.
    """
    train = settings.train
    _require_negatives(train.batch_examples, train.questions_per_document, objective)
    tracked = trackers.chosen()
    checkpoint.interval()
    card = loading.read_card()
    distributed.launch("pipeline.stages.train", [method])
    team = distributed.Processes()
    _require_even_shares(team.num, train.batch_examples, batch_questions)
    if team.sharded and objective.contrastive and train.negatives == "graph":
        raise ConfigError(
            "train.negatives is graph, but the layers are sharded over processes, which gather them anew for each "
            "backward; set it to cached"
        )
    sources = [
        tables.FULL_VIEWS.path,
        *([tables.MASKED_VIEWS.path] if objective.reads_masked else []),
        *([tables.TEACHINGS.path] if objective.taught else []),
    ]
    data = _data(train, objective, batch_questions)
    set_seed(train.seed)
    adapted = causal_lm.add_adapter(
        loading.load_base(settings.model, card, "cpu" if team.sharded else None),
        **settings.lora.model_dump(),
        mask_id=card.mask_id,
    )
    if team.device.type == "cuda" and train.questions_per_document > 1:
        # Rows that several questions share need a mask of their own, which flex attention alone never holds whole.
        causal_lm.unwrap(adapted).set_attn_implementation("flex_attention")
    num_trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    retained = objective.contrastive > 0 and train.negatives == "graph"
    flat: dict[str, Any] = settings.model_dump()
    identity = checkpoint.identity(flat, [*sources, loading.BASE / loading.CARD])
    kept = checkpoint.Checkpoints(CHECKPOINTS / method, identity) if team.first else None
    run_name = f"{method}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"
    watchers = trackers.Watchers(tracked if team.first else [], run_name, identity)
    try:
        fitted = trainer.fit(
            adapted,
            data,
            objective,
            train,
            pad_id=card.pad_id,
            retained=retained,
            processes=team,
            kept=kept,
            watchers=watchers,
        )
    finally:
        watchers.close()
    if kept is not None:
        with loading.workspace(method) as folder:
            trainer.write_curves(fitted.points, folder / "curves")
            files.write_json(folder / "curves/versions.json", trainer.versions())
            loading.save_adapter(adapted, card, folder / "adapter", fitted.weights)
            loading.put(folder / "adapter", loading.MODELS / method)
            loading.put(folder / "curves", CURVES / method)
        kept.remove()
        kept.close()
        beside = f" and {batch_questions} taught questions" if batch_questions else ""
        print(
            f"train@{method}: {train.steps:,} steps of {len(data.batches[0])} examples{beside}, {data.num_examples:,} "
            f"distinct; {num_trainable:,} trainable parameters, last loss {fitted.points[-1].values['loss']:.4f}"
        )
    team.close()


def _data(train: TrainSettings, objective: Objective, batch_questions: int) -> TrainingData:
    """The examples of every step, and the taught questions."""
    batches: list[list[int]] = [[] for _ in range(train.steps)]  # stays where no label is used
    if objective.full or objective.reads_masked:
        batches = sampler.schedule(
            context_keys(tables.FULL_VIEWS.path),
            train.steps,
            train.batch_examples,
            train.seed,
            train.questions_per_document,
        )
    taught = None
    if objective.taught:
        keys = context_keys(tables.FULL_VIEWS.path, SPLITS)
        if batch_questions > len(keys):
            raise ConfigError(
                f"distill.batch_questions is {batch_questions}, but splits {' and '.join(SPLITS)} have only "
                f"{len(keys)} questions; allowed is 1 to {len(keys)}"
            )
        # Every question counts as a context of its own: taught ones are not compared with each other.
        order = sampler.schedule([str(place) for place in range(len(keys))], train.steps, batch_questions, train.seed)
        taught = Taught(order, tables.FULL_VIEWS.path, tables.TEACHINGS.path)
    return TrainingData(
        batches,
        tables.FULL_VIEWS.path,
        tables.MASKED_VIEWS.path if objective.reads_masked else None,
        taught,
        train.seed if train.document_order == "shuffled" else None,
        masked_first=objective.consistency > 0,
    )


def _require_even_shares(num_processes: int, batch_examples: int, batch_questions: int) -> None:
    for name, size in (("train.batch_examples", batch_examples), ("distill.batch_questions", batch_questions)):
        if size % num_processes:
            raise ConfigError(
                f"{name} is {size}, which {num_processes} processes cannot share evenly; set it to a multiple of "
                f"{num_processes}, or start another number of processes"
            )


def _require_negatives(batch_examples: int, questions_per_document: int, objective: Objective) -> None:
    if objective.contrastive == 0:
        return
    if batch_examples < 2:
        raise ConfigError(
            "train.batch_examples is 1: without a second example in the batch the contrastive loss is always 0; set it "
            "to 2 or more, or set contrastive.weight to 0.0"
        )
    if objective.same_document == "mask" and batch_examples <= questions_per_document:
        raise ConfigError(
            f"train.questions_per_document is {questions_per_document} and train.batch_examples {batch_examples}: a "
            "batch of one document alone has no negatives; set batch_examples to twice that or more"
        )


if __name__ == "__main__":
    run(main)
