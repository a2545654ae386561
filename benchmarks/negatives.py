"""A contrastive batch in every way of `train.negatives`, against as many single steps without a contrastive loss.

    OMP_NUM_THREADS=1 python benchmarks/negatives.py [--batch 8] [--tokens 1024] [--rounds 3] [--device cpu] ...

A random Mistral in fp32 (see step.py), both views of each example (masked view: `skip`), each row a forward of its own.
The single steps run the same forwards, with the causal-LM losses alone, one backward after each; they are taken with
and without activation checkpointing, and each way is told against those that checkpoint as it does. MiB per example is
the slope of the peak between half the batch and the whole. All four ways must have the same gradient, or the run fails:
for each parameter |a - b| <= 1e-4 |b| in fp32, 1e-9 with `--dtype float64`.

Beside them the contrastive loss alone: our cached way, and sentence-transformers' CachedMultipleNegativesRankingLoss
(both directions, a softmax each: the same symmetric InfoNCE) over the same rows. The gradients are compared as above,
in fp32 to 1e-2: views of a random model are nearly alike, so that loss is a small difference of large numbers. Ours
computes the label tokens' logits too, for a weight of zero. How seconds and memory are taken: measuring.py.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor
from torch.nn import Module, Sequential

from benchmarks import measuring, random_training
from benchmarks.measuring import Goal, Step
from benchmarks.random_training import FOCUSED
from pipeline.model import causal_lm, collator
from pipeline.training.dataset import StepBatch
from pipeline.training.objective import Encoder, Objective

TOLERANCE = {"float32": 1e-4, "float64": 1e-9}
PEER_TOLERANCE = {"float32": 1e-2, "float64": 1e-9}
SINGLE, GRAPH, CACHED = "single steps, no contrastive loss", "graph", "cached"
WAYS = (SINGLE, GRAPH, CACHED)
WITH = ", checkpointing"
OURS, PEER = "cached, contrastive loss alone", "sentence-transformers' cached loss"
CONTRAST_ALONE = FOCUSED._replace(full=0.0, masked=0.0, contrastive=1.0)


class Embedder(Module):
    """The model as sentence-transformers' losses call it."""

    def __init__(self, network: Module, prompt_end_of: dict[int, int]) -> None:
        super().__init__()
        self.network = network
        self._prompt_end_of = prompt_end_of

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        output = causal_lm.unwrap(self.network).model(**features, use_cache=False)
        last = self._prompt_end_of[features["input_ids"].shape[1]] - 1
        return {"sentence_embedding": output.last_hidden_state[:, last]}


def peer(encoder: Encoder, sides: Sequence[Sequence[collator.TokenRow]], device: torch.device) -> Step:
    from sentence_transformers.sentence_transformer.losses import CachedMultipleNegativesRankingLoss

    views = [collator.collate(rows, random_training.PAD).to(device) for rows in sides]
    features = [
        {"input_ids": view.input_ids_BL, "attention_mask": view.mask_BL, "position_ids": view.position_ids_BL}
        for view in views
    ]
    prompt_ends = {len(rows[0]): rows[0].segments[0].prompt_end for rows in sides}
    embedder: Any = Sequential(Embedder(encoder.network, prompt_ends))  # a SentenceTransformer is one too
    loss = CachedMultipleNegativesRankingLoss(
        embedder,
        scale=1 / FOCUSED.temperature,
        mini_batch_size=1,
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )
    return lambda: loss(features, torch.empty(0)).backward()


def ways(
    encoder: Encoder, made: StepBatch, sides: Sequence[Sequence[collator.TokenRow]], device: torch.device
) -> dict[str, Step]:
    def ours(objective: Objective, negatives: random_training.Negatives, checkpointing: bool) -> Step:
        def step() -> None:
            random_training.checkpoint(encoder, checkpointing)
            random_training.accumulate(encoder, made, objective, negatives)
            random_training.checkpoint(encoder, False)

        return step

    steps: dict[str, Step] = {}
    for checkpointing in (False, True):
        end = WITH if checkpointing else ""
        steps[SINGLE + end] = ours(FOCUSED._replace(contrastive=0.0), "cached", checkpointing)
        steps[GRAPH + end] = ours(FOCUSED, "graph", checkpointing)
        steps[CACHED + end] = ours(FOCUSED, "cached", checkpointing)
    return steps | {OURS: ours(CONTRAST_ALONE, "cached", False), PEER: peer(encoder, sides, device)}


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    encoder = random_training.encoder_of(
        random_training.network(
            vocab=arguments.vocab,
            hidden=arguments.hidden,
            layers=arguments.layers,
            heads=8,
            kv_heads=2,
            tokens=arguments.tokens,
            dtype=torch.float32,
            device=arguments.device,
        )
    ).to(getattr(torch, arguments.dtype))
    size = {name: getattr(arguments, name) for name in ("tokens", "answer", "chunks", "keep", "vocab")}
    peaks: dict[int, dict[str, float]] = {}
    for num in (arguments.batch // 2, arguments.batch):
        made = random_training.examples(num, **size)
        sides = (made.full, made.masked["skip"])
        steps = ways(encoder, random_training.batch(num, *sides, device=arguments.device), sides, arguments.device)
        peaks[num], found = measuring.first_run(encoder, steps, arguments.device)
    pairs = [(way, GRAPH) for way in (GRAPH + WITH, CACHED, CACHED + WITH)]
    differences = measuring.assert_equal(found, pairs, TOLERANCE[arguments.dtype])
    differences |= measuring.assert_equal(found, [(PEER, OURS)], PEER_TOLERANCE[arguments.dtype])
    del found
    seconds = measuring.rounds(encoder, steps, arguments.rounds, arguments.device)
    half, whole = peaks
    rows = []
    for name in steps:
        reference = OURS if name in (OURS, PEER) else SINGLE + (WITH if name.endswith(WITH) else "")
        rows.append(
            {
                "way": name,
                "seconds": seconds[name],
                "ratio": measuring.ratio(seconds[name], seconds[reference]),
                "mib": peaks[whole][name],
                "mib_per_example": (peaks[whole][name] - peaks[half][name]) / (whole - half),
            }
        )
    of = {row["way"]: row["ratio"].median for row in rows}
    goals = [
        Goal(f"{way}{end} to {SINGLE}{end}", "at most", wanted, of[way + end])
        for way, wanted in ((GRAPH, 1.1), (CACHED, 1.4))
        for end in ("", WITH)
    ]
    return {"rows": rows, "differences": differences, "goals": goals}


def show(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    print(
        f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} thread, {arguments.dtype}; hidden "
        f"{arguments.hidden}, {arguments.layers} layers; {arguments.batch} examples of {arguments.tokens:,} tokens and "
        f"their `skip` views, {arguments.keep} of {arguments.chunks} chunks kept; {arguments.rounds} rounds\n"
    )
    print(
        "| way | seconds | times single steps (lowest to highest) | peak MiB | MiB per example |\n|---|---|---|---|---|"
    )
    for row in found["rows"]:
        if row["way"] == OURS:
            print("\n| contrastive loss alone | seconds | times ours | peak MiB | per example |\n|---|---|---|---|---|")
        print(
            f"| {row['way']} | {statistics.median(row['seconds']):.2f} | {row['ratio']} | {row['mib']:,.0f} | "
            f"{row['mib_per_example']:,.0f} |"
        )
    allowed = f"{TOLERANCE[arguments.dtype]:.0e}, with sentence-transformers {PEER_TOLERANCE[arguments.dtype]:.0e}"
    print(f"\nGradients, largest |a - b| / |b| of a parameter (allowed: {allowed}):")
    for pair, difference in found["differences"].items():
        print(f"- {pair}: {difference:.1e}")
    measuring.print_goals(found["goals"])


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("batch", 8, "examples of the contrastive batch"),
        ("tokens", 1024, "of a full view"),
        ("answer", 32, "tokens of the answer"),
        ("chunks", 15, "of a document"),
        ("keep", 4, "chunks that the masked view keeps"),
        ("hidden", 512, ""),
        ("layers", 4, ""),
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("rounds", 3, ""),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--dtype", choices=list(TOLERANCE), default="float32")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    found = measuring.setting(arguments) | measure(arguments)
    show(arguments, found)
    measuring.write(arguments.results, found)
    return found


if __name__ == "__main__":
    main()
