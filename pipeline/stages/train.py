"""Stage train@<method>: a LoRA adapter, by vanilla fine-tuning or by focused learning."""

import sys
from pathlib import Path

from dvclive import Live
from transformers import set_seed

from pipeline import config, training, weights
from pipeline.core import batching, focus, model
from pipeline.errors import ConfigError, run
from pipeline.settings import TrainFocusedStage, TrainVanillaStage

FULL, MASKED = Path("data/views/full.parquet"), Path("data/views/masked.parquet")
CURVES = Path("reports/train")


def main() -> None:
    method = sys.argv[1] if len(sys.argv) == 2 else ""
    if method == "vanilla":
        train_adapter(method, config.load(TrainVanillaStage), focus.VANILLA)
    elif method == "focused":
        settings = config.load(TrainFocusedStage)
        objective = focus.Objective(
            full=settings.views.full,
            masked=settings.views.masked,
            contrastive=settings.contrastive.weight,
            temperature=settings.contrastive.temperature,
            representation=settings.contrastive.representation,
        )
        train_adapter(method, settings, objective)
    else:
        raise ConfigError(f"train takes one method, got {' '.join(sys.argv[1:]) or 'none'}; choose vanilla or focused")


def train_adapter(method: str, settings: TrainVanillaStage | TrainFocusedStage, objective: focus.Objective) -> None:
    """Train, then put adapter and curves in their place; until then the earlier ones stay."""
    train = settings.train
    if objective.contrastive > 0 and train.batch_examples < 2:
        raise ConfigError(
            "train.batch_examples is 1: without a second example in the batch the contrastive loss is always 0; set it "
            "to 2 or more, or set contrastive.weight to 0.0"
        )
    card = weights.read_card()
    batches = batching.schedule(training.context_keys(FULL), train.steps, train.batch_examples, train.seed)
    dataset = training.Scheduled(batches, FULL, MASKED if objective.reads_masked else None)
    set_seed(train.seed)
    adapted = model.add_adapter(weights.load_base(settings.model, card), **settings.lora.model_dump())
    num_trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    with weights.workspace(method) as folder:
        adapter, curves = folder / "adapter", folder / "curves"
        with Live(str(curves), save_dvc_exp=False, report=None, dvcyaml=None) as live:
            training.fit(adapted, dataset, objective, train, card.pad_id, live, folder / "state")
        weights.save_adapter(adapted, card, adapter)
        weights.put(adapter, weights.MODELS / method)
        weights.put(curves, CURVES / method)
    print(
        f"train@{method}: {train.steps:,} steps of {train.batch_examples} examples, {dataset.num_examples:,} distinct; "
        f"{num_trainable:,} trainable parameters, last loss {live.summary['train']['loss']:.4f}"
    )


if __name__ == "__main__":
    run(main)
