"""Stage train@<method>: a LoRA adapter, trained by the objective of the method."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers import set_seed

from pipeline.common import base_card, files, tables
from pipeline.model import causal_lm, distributed, loading, lora
from pipeline.runtime import config, methods, trackers
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import run
from pipeline.runtime.settings import Settings, TrainSettings
from pipeline.training import checkpoint, sampler, trainer
from pipeline.training.dataset import DISTILL_SPLITS, DistillationDataset, TrainingDataset, context_keys
from pipeline.training.objective import OBJECTIVES, Objective

CURVES = Path("reports/train")
CHECKPOINTS = base_card.MODELS / ".checkpoints"


def main() -> None:
    method: Any = methods.only(sys.argv[1:], "train", OBJECTIVES)
    settings = config.load(f"train@{method}")
    train_adapter(method, settings, OBJECTIVES[method](settings))


def train_adapter(method: str, settings: Settings, objective: Objective) -> None:
    """Train, then put adapter and curves in their place; until then the earlier ones stay."""
    train = settings.train
    _require_negatives(train, objective)
    tracker_names = trackers.chosen()
    checkpoint.interval()
    card = base_card.read_card()
    distributed.launch("pipeline.stages.train", [method])
    processes = distributed.Processes()
    _require_for_processes(processes, train, objective)
    views = [tables.FULL_VIEWS, *([tables.MASKED_VIEWS] if objective.reads_masked else [])]
    answers = [tables.TEACHINGS] if objective.batch_questions else []
    scores = [tables.SCORES] if objective.attention else []
    sources = [table.path for table in (*views, *answers, *scores)]
    dataset = _dataset(train, objective)
    set_seed(train.seed)
    network = lora.add_adapter(
        loading.load_base(settings.model, card, "cpu" if processes.sharded else None),
        **settings.lora.model_dump(),
        mask_id=card.mask_id,
    )
    _require_layers(objective, causal_lm.unwrap(network).config.num_hidden_layers)
    if processes.device.type == "cuda" and train.questions_per_document > 1:
        # Rows that several questions share need a mask of their own; only flex attention never holds it whole.
        causal_lm.unwrap(network).set_attn_implementation("flex_attention")
    num_trainable = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    identity = checkpoint.identity(settings.model_dump(), [*sources, base_card.BASE / base_card.CARD])
    checkpoints = checkpoint.Checkpoints(CHECKPOINTS / method, identity) if processes.is_main else None
    run_name = f"{method}-{hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]}"
    logged_to = trackers.Trackers(tracker_names if processes.is_main else [], run_name, identity)
    try:
        output = trainer.fit(
            network,
            dataset,
            objective,
            train,
            pad_id=card.pad_id,
            processes=processes,
            checkpoints=checkpoints,
            trackers=logged_to,
        )
    finally:
        logged_to.close()
    if checkpoints is not None:
        with files.workspace(method, base_card.MODELS) as folder:
            trainer.write_curves(output.points, folder / "curves")
            files.write_json(folder / "curves/versions.json", trainer.versions())
            loading.save_adapter(network, card, folder / "adapter", output.weights)
            files.put(folder / "adapter", base_card.MODELS / method)
            files.put(folder / "curves", CURVES / method)
        checkpoints.remove()
        checkpoints.close()
        num_taught = objective.batch_questions
        distilled = f" and {num_taught} distillation examples" if num_taught else ""
        print(
            f"train@{method}: {train.steps:,} steps of {len(dataset.batch_indices[0])} examples{distilled}, "
            f"{dataset.num_examples:,} distinct; {num_trainable:,} trainable parameters, last loss "
            f"{output.points[-1].values['loss']:.4f}"
        )
    processes.close()


def _dataset(train: TrainSettings, objective: Objective) -> TrainingDataset:
    """Draw the examples of every step, and read them."""
    batch_indices: list[list[int]] = [[] for _ in range(train.steps)]  # no example where no label is used
    if objective.reads_labels:
        batch_indices = sampler.batch_indices(
            context_keys(tables.FULL_VIEWS),
            train.steps,
            train.batch_examples,
            train.seed,
            train.questions_per_document,
        )
    distill = None
    if objective.batch_questions:
        num_questions = len(context_keys(tables.FULL_VIEWS, DISTILL_SPLITS))
        if objective.batch_questions > num_questions:
            raise ConfigError(
                f"distill.batch_questions is {objective.batch_questions}, but splits {' and '.join(DISTILL_SPLITS)} "
                f"have only {num_questions} questions; allowed is 1 to {num_questions}"
            )
        # Each question counts as a context of its own, because no contrastive loss compares distillation examples.
        keys = [str(place) for place in range(num_questions)]
        distill_indices = sampler.batch_indices(keys, train.steps, objective.batch_questions, train.seed)
        target = objective.attention_target
        distill = DistillationDataset(distill_indices, tables.FULL_VIEWS, tables.TEACHINGS, target)
    return TrainingDataset(
        batch_indices,
        tables.FULL_VIEWS,
        tables.MASKED_VIEWS if objective.reads_masked else None,
        distill,
        train.seed if train.document_order == "shuffled" else None,
        masked_first=objective.consistency > 0,
        target=objective.attention_target,
    )


def _require_for_processes(processes: distributed.Processes, train: TrainSettings, objective: Objective) -> None:
    """Check the settings that several processes restrict."""
    sizes = {"train.batch_examples": train.batch_examples, "distill.batch_questions": objective.batch_questions}
    for name, size in sizes.items():
        if size % processes.world_size:
            raise ConfigError(
                f"{name} is {size}, which {processes.world_size} processes cannot share evenly; set it to a multiple "
                f"of {processes.world_size}, or start another number of processes"
            )
    if processes.sharded and objective.contrastive and train.negatives == "graph":
        raise ConfigError(
            "train.negatives is graph, but the layers are sharded over processes, which gather them anew for each "
            "backward; set it to cached"
        )


def _require_layers(objective: Objective, num_layers: int) -> None:
    """Check that the layers whose attention is taught are there."""
    layers = objective.attention_loss.layers if objective.attention_loss is not None else None
    if layers is not None and max(layers) >= num_layers:
        raise ConfigError(
            f"attention.layers names layer {max(layers) + 1}, but the base has {num_layers}; choose from 1 to "
            f"{num_layers}, or set it to all"
        )


def _require_negatives(train: TrainSettings, objective: Objective) -> None:
    """Check that a batch holds negatives for the contrastive loss."""
    if objective.contrastive == 0:
        return
    if train.batch_examples < 2:
        raise ConfigError(
            "train.batch_examples is 1: without a second example in the batch the contrastive loss is always 0; set it "
            "to 2 or more, or set contrastive.weight to 0.0"
        )
    if objective.same_document == "mask" and train.batch_examples <= train.questions_per_document:
        raise ConfigError(
            f"train.questions_per_document is {train.questions_per_document} and train.batch_examples "
            f"{train.batch_examples}: a batch of one document alone has no negatives; set batch_examples to twice that "
            "or more"
        )


if __name__ == "__main__":
    run(main)
