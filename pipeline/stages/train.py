"""Stage train@<method>: a LoRA adapter, trained by the objective of the method."""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from transformers import set_seed

from pipeline.common import base_card, files, tables
from pipeline.common.device import attention
from pipeline.model import causal_lm, distributed, loading, lora
from pipeline.runtime import config, methods, trackers
from pipeline.runtime.errors import ConfigError
from pipeline.runtime.main import run
from pipeline.runtime.settings import LoraSettings, Settings, TrainSettings
from pipeline.training import checkpoint, model_card, sampler, trainer
from pipeline.training.dataset import DISTILL_SPLITS, DistillationDataset, TrainingDataset, context_keys
from pipeline.training.objective import OBJECTIVES, Objective

CURVES = Path("reports/train")
PARTS = {"attention": "attention projections", "norms": "norms", "embedding": "embedding"}
CHECKPOINTS = base_card.MODELS / ".checkpoints"


def main() -> None:
    method: Any = methods.only(sys.argv[1:], "train", OBJECTIVES)
    settings = config.load(f"train@{method}")
    train_adapter(method, settings, OBJECTIVES[method](settings))


def train_adapter(method: str, settings: Settings, objective: Objective) -> None:
    """Train, then put adapter and curves in their place; until then the earlier ones stay.

    Under DVC, which has removed the earlier ones by now, the curves grow in their place.

    Beside the adapter lie its model card and trained.json: method, settings, digests of the tables, and which modules
    are trained and which stay as they are (lora.report).
    """
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
    sources = (*views, *answers, *scores)
    together = tables.require_together(*sources)
    dataset = _dataset(train, objective)
    set_seed(train.seed)
    base = loading.load_base(settings.model, card, "cpu" if processes.sharded else None)
    found = lora.parts(base)
    network = lora.add_adapter(base, **settings.lora.model_dump(), mask_id=card.mask_id)
    digests = {name: digest for table in sources for name, digest in tables.made_from(table).items()} | together
    trained = model_card.record(method, settings.model_dump(), digests) | lora.report(found, network)
    _require_layers(objective, causal_lm.unwrap(network).config.num_hidden_layers)
    if processes.device.type == "cuda" and train.questions_per_document > 1 and attention() != "eager":
        # Rows that several questions share need a mask of their own; only flex attention never holds it whole.
        causal_lm.unwrap(network).set_attn_implementation("flex_attention")
    trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
    num_trainable = sum(parameter.numel() for parameter in trainable)
    if processes.is_main:
        # A checkpoint has two moments beside each weight; the adapter is written before it is removed.
        num_bytes = 4 * sum(parameter.nbytes for parameter in trainable)
        files.require_space(base_card.MODELS / method, num_bytes)
    data = [*(table.path for table in sources), base_card.BASE / base_card.CARD]
    identity = checkpoint.identity(settings.model_dump(), data)
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
            live=CURVES / method if processes.is_main and "DVC_STAGE" in os.environ else None,
        )
    finally:
        logged_to.close()
    if checkpoints is not None:
        with files.workspace(method, base_card.MODELS) as folder:
            trainer.write_curves(output.points, folder / "curves")
            files.write_json(folder / "curves/versions.json", trainer.versions())
            loading.save_adapter(network, card, folder / "adapter", output.weights)
            files.write_json(folder / "adapter" / loading.TRAINED, trained)
            readme = model_card.render(trained, card, base_on_hub=loading.is_on_hub(card))
            files.write_text(folder / "adapter" / model_card.README, readme)
            files.put(folder / "adapter", base_card.MODELS / method)
            files.put(folder / "curves", CURVES / method)
        checkpoints.remove()
        checkpoints.close()
        shares = ", ".join(
            f"{trained[part]['trained']} of {trained[part]['of']} {words}" for part, words in PARTS.items()
        )
        print(
            f"train@{method}: {train.steps:,} steps of {_examples_told(dataset, objective)}; {num_trainable:,} "
            f"trainable parameters ({shares}), last loss {output.points[-1].values['loss']:.4f}"
        )
        print(_next(method, settings.lora))
    processes.close()


def _next(method: str, chosen: LoraSettings) -> str:
    """Tell how to use the adapter. vLLM takes one of LoRA on attention alone (docs/sharing.md has its sources)."""
    if chosen.embedding == "none" and not chosen.norms:
        of_vllm = "vLLM should take the adapter alone, too, with `--enable-lora` (not tried)"
    else:
        of_vllm = "vLLM takes an adapter alone only if it was trained with lora: {embedding: none, norms: false}"
    return f"next: `make merge METHOD={method}`, then `vllm serve models/merged-{method}` or another tool; {of_vllm}"


def _dataset(train: TrainSettings, objective: Objective) -> TrainingDataset:
    """Draw the examples of every step, and read them."""
    batch_indices: list[list[int]] = [[] for _ in range(train.steps)]  # no example where no label is used
    together = train.questions_per_document > 1
    if objective.reads_labels:
        batch_indices = sampler.batch_indices(
            context_keys(tables.FULL_VIEWS, together=together),
            train.steps,
            train.batch_examples,
            train.seed,
            train.questions_per_document,
        )
    distill = None
    if objective.batch_questions:
        keys = context_keys(tables.FULL_VIEWS, DISTILL_SPLITS, together)
        num_questions = len(keys)
        if objective.batch_questions > num_questions:
            raise ConfigError(
                f"distill.batch_questions is {objective.batch_questions}, but splits {' and '.join(DISTILL_SPLITS)} "
                f"have only {num_questions} questions; allowed is 1 to {num_questions}"
            )
        if not together:
            # Each question counts as a context of its own, because no contrastive loss compares distillation examples.
            keys = [str(place) for place in range(num_questions)]
        distill_indices = sampler.batch_indices(
            keys, train.steps, objective.batch_questions, train.seed, train.questions_per_document
        )
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
        together=together,
    )


def _examples_told(dataset: TrainingDataset, objective: Objective) -> str:
    """Tell how many examples a step has of each kind, and how many distinct ones there are in all steps."""
    told = []
    if objective.reads_labels:
        told.append(f"{len(dataset.batch_indices[0])} labelled examples ({dataset.num_examples:,} distinct)")
    if objective.batch_questions:
        with_label, without = (dataset.num_taught[split] for split in DISTILL_SPLITS)
        told.append(
            f"{objective.batch_questions} questions with the teacher's answer ({with_label:,} distinct labelled, "
            f"{without:,} unlabelled)"
        )
    return " and ".join(told)


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
