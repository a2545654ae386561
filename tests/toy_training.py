"""A training of seconds on tables made up here: toy base, eight examples. Also a program, for tests that kill it.

python -m tests.toy_training FOLDER NAME [key=value of the settings ...] [-- NAME [key=value ...] ...]
"""

import hashlib
import itertools
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from transformers import set_seed

from pipeline.common import base_card, tables
from pipeline.model import loading
from pipeline.model.distributed import Processes
from pipeline.model.lora import add_adapter
from pipeline.runtime import trackers
from pipeline.runtime.settings import LoraSettings, TrainSettings
from pipeline.training import checkpoint, sampler, trainer
from pipeline.training.attention import AttentionLoss, AttentionTarget
from pipeline.training.dataset import DistillationDataset, TrainingDataset, context_keys
from pipeline.training.objective import VANILLA, Objective
from pipeline.views import masking
from tests.model import tiny
from tests.training.test_objective import FOCUSED, examples

LORA = LoraSettings(rank=4, alpha=8, dropout=0.1, embedding="lora", norms=True)
TRAIN = TrainSettings(
    seed=1, document_order="given",
    steps=6, batch_examples=4, questions_per_document=1, batch_tokens=64, negatives="graph", learning_rate=1e-2,
    embedding_learning_rate=1e-2, schedule="cosine", warmup_steps=1, weight_decay=0.0, max_grad_norm=1.0, log_every=2,
    activation_checkpointing=False,
)  # fmt: skip
TOKENIZER = b"{}"
CARD = base_card.BaseCard(
    "toy", None, "0" * 64, 48, hashlib.sha256(TOKENIZER).hexdigest(), tiny.BOS, [tiny.EOS], tiny.PAD, tiny.MASK
)


def write_views(folder: Path) -> None:
    """Full and masked views of eight training examples and one test example, their scores, and a base's tokenizer.

    e7 and e8 ask about one context. The best chunk of example n is the n-th, counted round.
    """
    (folder / base_card.BASE).mkdir(parents=True)
    (folder / base_card.BASE / "tokenizer.json").write_bytes(TOKENIZER)
    full, masked = [], []
    made = list(examples(9))
    for number, (ids, starts, ends, prompt_end, kept) in enumerate(made):
        name, document = f"e{number}", f"d{number}"
        if number == 8:
            end, document = made[7][2][-1], "d7"
            ids, starts, ends, prompt_end = np.concatenate([made[7][0][:end], ids[-6:]]), *made[7][1:3], end + 3
        ids = np.concatenate([ids[:-1], ids[: number % 3], ids[-1:]])  # answers of two, three and four tokens, and EOS
        full.append(
            {
                "example_id": name, "question_id": name, "split": "test" if number == 4 else "train",
                "num_documents": 4, "gold_position": 0, "document_ids": [document, "x", "y", "z"],
                "context_key": document,
                "input_ids": ids.tolist(), "chunk_ids": list("abcd"), "chunk_starts": starts.tolist(),
                "chunk_ends": ends.tolist(), "question_start": int(ends[-1]), "prompt_end": int(prompt_end),
            }
        )  # fmt: skip
        view = masking.masked_view(ids, starts, ends, int(prompt_end), kept, "token", tiny.MASK)
        masked.append(
            {
                "example_id": name, "input_ids": view.input_ids.tolist(), "position_ids": view.position_ids.tolist(),
                "prompt_end": view.prompt_end, "kept_chunk_ids": ["a"], "kept_scores": [1.0], "kept_ranks": [0],
                "gold_retained": True, "answer_retained": True,
            }
        )  # fmt: skip
    tables.write(tables.FULL_VIEWS.at(folder / "full.parquet"), full)
    scores = [
        {
            "example_id": row["example_id"], "chunk_ids": row["chunk_ids"], "gold": [False] * 4,
            "scores": np.roll([4.0, 3.0, 2.0, 1.0], number).tolist(), "ranks": np.roll(range(4), number).tolist(),
        }
        for number, row in enumerate(full)
    ]  # fmt: skip
    tables.write(tables.SCORES.at(folder / tables.SCORES.path), scores)
    said = [
        {
            "example_id": row["example_id"], "output_ids": [7 + number] * (number % 3 + 1) + [tiny.EOS],
            "top_ids": [7 + number, 5] * (number % 3 + 1) + [tiny.EOS, 5], "num_top": 2,
            "top_log_probs": [-0.1, -3.0] * (number % 3 + 2),
        }
        for number, row in enumerate(full)
        if row["split"] == "train"
    ]  # fmt: skip
    tables.write(tables.TEACHINGS.at(folder / "teachings.parquet"), said)
    tables.write(tables.MASKED_VIEWS.at(folder / "masked.parquet"), masked)


def looking(objective: Objective, weight: float) -> Objective:
    """The objective with attention taught, where the weight is above 0."""
    if weight == 0:
        return objective
    return objective._replace(
        attention=weight,
        attention_loss=AttentionLoss(None, "mean", "answer"),
        attention_target=AttentionTarget("soft", top_k=1, temperature=1.0),
    )


def train(
    views: Path,
    name: str,
    objective: Objective = FOCUSED,
    settings: TrainSettings = TRAIN,
    identity: dict[str, str] | None = None,
    lora: LoraSettings = LORA,
    shared: Processes | None = None,
) -> Path:
    """Train the toy base, checkpoints in <name>-state, curves in <name>-curves; the adapter's folder.

    The current folder is that of the views, where models/base stands. Processes that are `shared` are left open.
    """
    full, masked = tables.FULL_VIEWS.at(views / "full.parquet"), tables.MASKED_VIEWS.at(views / "masked.parquet")
    batch_indices = [[] for _ in range(settings.steps)]
    if objective.reads_labels:
        batch_indices = sampler.batch_indices(
            context_keys(full), settings.steps, settings.batch_examples, settings.seed, settings.questions_per_document
        )
    distill = None
    if objective.distill:
        order = sampler.batch_indices([str(place) for place in range(8)], settings.steps, 4, settings.seed)
        teachings = tables.TEACHINGS.at(views / "teachings.parquet")
        distill = DistillationDataset(order, full, teachings, objective.attention_target)
    dataset = TrainingDataset(
        batch_indices,
        full,
        masked if objective.reads_masked else None,
        distill,
        masked_first=objective.consistency > 0,
        target=objective.attention_target,
    )
    set_seed(settings.seed)
    adapted = add_adapter(tiny.network(), **lora.model_dump(), mask_id=tiny.MASK)
    processes = shared or Processes()
    if processes.is_main and processes.sharded:
        print("sharded", file=sys.stderr)
    checkpoints = checkpoint.Checkpoints(views / f"{name}-state", identity or {}) if processes.is_main else None
    try:
        output = trainer.fit(
            adapted, dataset, objective, settings, pad_id=tiny.PAD,
            processes=processes, checkpoints=checkpoints, trackers=trackers.Trackers([], name, {}),
            live=views / f"{name}-curves",
        )  # fmt: skip
        if processes.is_main:
            trainer.write_curves(output.points, views / f"{name}-curves")
            loading.save_adapter(adapted, CARD, views / name, output.weights)
    finally:
        if checkpoints is not None:
            checkpoints.close()
        if not shared:
            processes.close()
    return views / name


def killed(views: Path, name: str, num: int, settings: TrainSettings, objective: Objective) -> None:
    """Train in a child that is killed at some moment after its first new checkpoint, `num` times, then once to the end.

    Libraries are imported once and nothing is computed here, so that each child is a process of its own at no cost.
    """
    rng = random.Random(1)
    state = views / f"{name}-state"
    for _ in range(num):
        before = set(state.glob("step-*"))
        child = fork(views, name, settings, objective)
        while not set(state.glob("step-*")) - before:
            time.sleep(0.001)
        time.sleep(rng.uniform(0.0, 0.05))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        print("killed" if os.WIFSIGNALED(status) else "through", flush=True)
    status = os.waitpid(fork(views, name, settings, objective), 0)[1]
    print(f"ended with {os.waitstatus_to_exitcode(status)}", flush=True)


def fork(views: Path, name: str, settings: TrainSettings, objective: Objective) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            train(views, name, objective, settings)
            code = 0
        finally:
            os._exit(code)
    return child


def main() -> None:
    folder, *words = sys.argv[1:]
    torch.set_num_threads(1)
    os.chdir(folder)
    trainings = [list(part) for is_rule, part in itertools.groupby(words, "--".__eq__) if not is_rule]
    shared = Processes() if len(trainings) > 1 else None
    for name, *given in trainings:
        train_as_told(Path(folder), name, dict(part.split("=") for part in given), shared)
    if shared:
        shared.close()


def train_as_told(folder: Path, name: str, given: dict[str, str], shared: Processes | None) -> None:
    lora = LORA.model_copy(update={"dropout": float(given.pop("dropout", LORA.dropout))})
    num_kills = int(given.pop("kills", 0))
    labelled = given.pop("labelled", "1") == "1"
    weights = {name: float(given.pop(name, 0.0)) for name in ("distill", "consistency")}
    attention = float(given.pop("attention", 0.0))
    objective = looking(FOCUSED if labelled else VANILLA._replace(full=0.0), attention)._replace(**weights)
    changes = {key: value if key == "negatives" else int(value) for key, value in given.items()}
    settings = TrainSettings.model_validate(TRAIN.model_dump() | changes)
    if num_kills:
        killed(folder, name, num_kills, settings, objective)
    else:
        train(folder, name, objective, settings, lora=lora, shared=shared)


if __name__ == "__main__":
    from pipeline.runtime.main import run

    run(main)
