"""Trials on the dev split: settings that are compared before any test question is read.

    dvc exp run -S eval.split=dev -S ++data.dev_questions=640 -S ++data.dev_documents=[4,12] mask teach
    OMP_NUM_THREADS=1 python benchmarks/trials.py [--groups GROUP ...] [--only NAME ...] [--seeds 1 2]

Each trial is stage train of the pipeline with other settings, then its answers to the dev questions. Answers are kept
in models/trials, so that a call that was stopped goes on. A row is compared with the first row of its group, paired
over seeds and questions (pipeline/tools/ablations/tabulate.py); p-values are not corrected for the number of trials.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import polars as pl

from benchmarks import measuring
from pipeline.common import base_card, tables
from pipeline.evaluation import predict, schema
from pipeline.report.ablation_table import AblationRow
from pipeline.runtime import config
from pipeline.runtime.settings import Settings
from pipeline.stages import train
from pipeline.tools.ablations import tabulate
from pipeline.training.objective import OBJECTIVES

KEPT = base_card.MODELS / "trials"
RESAMPLES = 4000


class Trial(NamedTuple):
    """A training: the method, and the keys of params.yaml that differ."""

    method: str
    changes: Mapping[str, Any] = {}


VANILLA, FOCUSED, GUIDED = "vanilla", "focused", "guided"
FAST = {"lora.embedding": "lora", "train.embedding_learning_rate": 3e-3, "lora.alpha": 16}
SLOW = FAST | {"train.embedding_learning_rate": 3e-4}
NONE = {"lora.embedding": "none", "train.embedding_learning_rate": 3e-3, "lora.alpha": 16}
DISTILL = SLOW | {"attention.weight": 0.0}
LIGHT = SLOW | {"attention.weight": 0.3}
FULL_ALONE = SLOW | {"views.masked": 0.0, "contrastive.weight": 0.0}
LAPTOP = {"lora.embedding": "none", "train.learning_rate": 1e-3, "train.steps": 40}
GROUPS: dict[str, dict[str, Trial]] = {
    "recipe": {
        "embedding lora": Trial(VANILLA, FAST),
        "embedding lora, a tenth": Trial(VANILLA, SLOW),
        "embedding lora, a hundredth": Trial(VANILLA, FAST | {"train.embedding_learning_rate": 3e-5}),
        "embedding mask_token": Trial(VANILLA, NONE | {"lora.embedding": "mask_token"}),
        "embedding none": Trial(VANILLA, NONE),
        "norms false": Trial(VANILLA, NONE | {"lora.norms": False}),
        "norms at a tenth": Trial(VANILLA, NONE | {"train.embedding_learning_rate": 3e-4}),
        "alpha 8": Trial(VANILLA, NONE | {"lora.alpha": 8}),
        "rank 16": Trial(VANILLA, NONE | {"lora.rank": 16, "lora.alpha": 32}),
        "rate 1e-3": Trial(VANILLA, NONE | {"train.learning_rate": 1e-3}),
        "rate 6e-3": Trial(VANILLA, NONE | {"train.learning_rate": 6e-3}),
        "linear": Trial(VANILLA, NONE | {"train.schedule": "linear"}),
        "batch 16": Trial(VANILLA, NONE | {"train.batch_examples": 16}),
        "60 steps": Trial(VANILLA, NONE | {"train.steps": 60}),
        "240 steps": Trial(VANILLA, NONE | {"train.steps": 240}),
        "shuffled": Trial(VANILLA, NONE | {"train.document_order": "shuffled"}),
    },
    "recipe, embedding at a tenth": {
        "embedding lora, a tenth": Trial(VANILLA, SLOW),
        "embedding none, norms at a tenth": Trial(VANILLA, SLOW | {"lora.embedding": "none"}),
        "alpha 8": Trial(VANILLA, SLOW | {"lora.alpha": 8}),
        "alpha 32": Trial(VANILLA, SLOW | {"lora.alpha": 32}),
        "rank 16": Trial(VANILLA, SLOW | {"lora.rank": 16, "lora.alpha": 32}),
        "rate 6e-3": Trial(VANILLA, SLOW | {"train.learning_rate": 6e-3}),
        "linear": Trial(VANILLA, SLOW | {"train.schedule": "linear"}),
        "weight decay .1": Trial(VANILLA, SLOW | {"train.weight_decay": 0.1}),
        "batch 16": Trial(VANILLA, SLOW | {"train.batch_examples": 16}),
        "240 steps": Trial(VANILLA, SLOW | {"train.steps": 240}),
    },
    "amount": {  # with data.unlabelled_questions=1000, 4000 and 16000
        "vanilla, 960 steps": Trial(VANILLA, SLOW | {"train.steps": 960}),
        "guided, 480 steps": Trial(GUIDED, SLOW | {"attention.weight": 1.0, "train.steps": 480}),
        "guided, 480 steps, no labels": Trial(
            GUIDED, SLOW | {"attention.weight": 1.0, "train.steps": 480, "distill.labelled": 0.0}
        ),
        "guided, 480 steps, 16 taught and no labels": Trial(
            GUIDED,
            SLOW
            | {"attention.weight": 1.0, "train.steps": 480, "distill.labelled": 0.0, "distill.batch_questions": 16},
        ),
        "guided, 2000 steps": Trial(GUIDED, SLOW | {"attention.weight": 1.0, "train.steps": 2000}),
    },
    "laptop": {  # with use.data=nq-oracle use.model=smollm2 use.profile=laptop
        "vanilla": Trial(VANILLA, LAPTOP),
        "rate 3e-4": Trial(VANILLA, LAPTOP | {"train.learning_rate": 3e-4}),
        "rate 3e-3": Trial(VANILLA, LAPTOP | {"train.learning_rate": 3e-3}),
        "rank 16": Trial(VANILLA, LAPTOP | {"lora.rank": 16, "lora.alpha": 32}),
        "norms false": Trial(VANILLA, LAPTOP | {"lora.norms": False}),
        "half the steps": Trial(VANILLA, LAPTOP | {"train.steps": 20}),
        "twice the steps": Trial(VANILLA, LAPTOP | {"train.steps": 80}),
    },
    "retriever": {  # with use.retriever=bm25, random
        "vanilla": Trial(VANILLA, SLOW),
        "distill": Trial(GUIDED, DISTILL),
        "guided": Trial(GUIDED, SLOW | {"attention.weight": 1.0}),
    },
    "consistency": {  # with mask.mode=skip
        "vanilla": Trial(VANILLA, SLOW),
        "consistency": Trial(FOCUSED, SLOW | {"views.consistency": 1.0}),
        "consistency + attention": Trial(FOCUSED, SLOW | {"views.consistency": 1.0, "views.attention": 1.0}),
    },
    "attention": {
        "vanilla": Trial(VANILLA, SLOW),
        "vanilla + attention": Trial(FOCUSED, FULL_ALONE | {"views.attention": 0.3}),
        "distill": Trial(GUIDED, DISTILL),
        "guided": Trial(GUIDED, LIGHT),
        "layers 1, 2": Trial(GUIDED, LIGHT | {"attention.layers": [1, 2]}),
        "layers 2, 3": Trial(GUIDED, LIGHT | {"attention.layers": [2, 3]}),
        "layer 1": Trial(GUIDED, LIGHT | {"attention.layers": [1]}),
        "layer 2": Trial(GUIDED, LIGHT | {"attention.layers": [2]}),
        "layer 3": Trial(GUIDED, LIGHT | {"attention.layers": [3]}),
        "best head": Trial(GUIDED, LIGHT | {"attention.heads": "best"}),
        "best head, weight 1": Trial(GUIDED, LIGHT | {"attention.heads": "best", "attention.weight": 1.0}),
        "weight .1": Trial(GUIDED, LIGHT | {"attention.weight": 0.1}),
        "weight 1": Trial(GUIDED, LIGHT | {"attention.weight": 1.0}),
        "weight 3": Trial(GUIDED, LIGHT | {"attention.weight": 3.0}),
        "soft .02": Trial(GUIDED, LIGHT | {"attention.target": "soft", "attention.temperature": 0.02}),
        "soft .05": Trial(GUIDED, LIGHT | {"attention.target": "soft"}),
        "top 2": Trial(GUIDED, LIGHT | {"attention.top_k": 2}),
        "top 4": Trial(GUIDED, LIGHT | {"attention.top_k": 4}),
        "question": Trial(GUIDED, LIGHT | {"attention.queries": "question"}),
        "answer": Trial(GUIDED, LIGHT | {"attention.queries": "answer"}),
        "no labels": Trial(GUIDED, LIGHT | {"distill.labelled": 0.0}),
        "no labels, no attention": Trial(GUIDED, DISTILL | {"distill.labelled": 0.0}),
        "focused": Trial(FOCUSED, SLOW),
        "focused + attention": Trial(FOCUSED, SLOW | {"views.attention": 0.3}),
    },
}


def settings_of(trial: Trial, seed: int) -> Settings:
    """Lay the keys of a trial over params.yaml."""
    params = config.read_yaml(config.PARAMS)
    for key, value in {**trial.changes, "train.seed": seed}.items():
        section, name = key.split(".")
        params[section] = {**params.get(section, {}), name: value}
    return config.resolve(params)


def answers(trial: Trial, seed: int) -> pl.DataFrame:
    """Read the dev answers of a trial; where none are kept, train it and answer first."""
    settings = settings_of(trial, seed)
    digest = hashlib.sha256(json.dumps([trial.method, settings.model_dump()], sort_keys=True).encode())
    for table in (tables.FULL_VIEWS, tables.SCORES, tables.TEACHINGS):
        digest.update(table.path.read_bytes())
    name = f"trial-{digest.hexdigest()[:12]}"
    kept = schema.PREDICTIONS.at(KEPT / f"{name}.parquet")
    if not kept.path.is_file():
        train.train_adapter(name, settings, OBJECTIVES[trial.method](settings))
        rows = predict.predictions(name, settings.model, settings.eval, "dev", {}, name)
        tables.write(kept, rows or [])
        shutil.rmtree(base_card.MODELS / name)
        shutil.rmtree(train.CURVES / name)
    return tables.frame(kept, [column for column, _ in schema.ABLATION_RUN.columns])


def measure(group: str, only: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Train and print each row of a group, against its first row."""
    found: dict[str, Any] = {}
    reference: tabulate.AblationAnswers | None = None
    for name, trial in GROUPS[group].items():
        if reference is not None and only and name not in only:
            continue
        by_seed = [answers(trial, seed).with_columns(seed=pl.lit(seed, pl.Int64)) for seed in seeds]
        mine = tabulate.AblationAnswers(
            name, name, group, trial.method, "full", {}, pl.concat(by_seed), identity=(name,)
        )
        reference = reference or mine
        rows = [mine] if mine is reference else [mine, reference]
        row = tabulate.tabulate(rows, reference=reference.name, claimed=[], seconds=0.0, resamples=RESAMPLES).rows[0]
        fewest = mine.answers.filter(pl.col("num_documents") == pl.col("num_documents").min())["score"].mean()
        found[name] = row.model_dump() | {"changes": dict(trial.changes), "fewest_documents": fewest}
        print(cells(row, fewest), flush=True)
    return found


def cells(row: AblationRow, fewest: Any) -> str:
    """Write one line of the table."""
    to = row.to_reference
    difference = "" if to is None else f"{points(to.difference, to.low, to.high)}, p {to.p_value:.3f}"
    figures = (row.pooled.mean, fewest, row.distraction_rate.mean)
    score, few, distracted = (f"{100 * value:.1f}" for value in figures)
    return f"| {row.name} | {len(row.seeds)} | {score} | {difference} | {distracted} | {few} |"


def points(value: float, low: float, high: float) -> str:
    """Write a difference of shares in percentage points, with its interval."""
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*(100 * share for share in (value, low, high)))


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS, metavar="GROUP")
    names = [name for group in GROUPS.values() for name in group]
    only = "beside the first row of each group"
    parser.add_argument("--only", nargs="+", default=[], choices=names, metavar="NAME", help=only)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    found = measuring.setting(arguments) | {"groups": {}}
    for group in arguments.groups:
        print(
            f"| {group} | seeds | score | to the first row | distracted | fewest documents |\n|---|--:|--:|:--|--:|--:|"
        )
        found["groups"][group] = measure(group, arguments.only, arguments.seeds)
    measuring.write(arguments.results, found)
    return found


if __name__ == "__main__":
    main()
