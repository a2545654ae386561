"""A training step in every way: vanilla and focused, naive and ours, one question of a document and several.

    OMP_NUM_THREADS=1 python benchmarks/step.py [--rounds 3] [--tokens 2048] [--batch 2] [--device cpu] ...

A random Mistral in fp32, LoRA (r = 8) on the attention projections and the embedding, norms trained. Rounds are
interleaved, ratios are medians over rounds. "Full logits" is transformers' `labels=`; "naive" is what one would write
first: two such forwards and InfoNCE on their hidden states. The others are grad_cache.accumulate. Ways
that must have the same gradient are compared, or the run fails: for each parameter |a - b| <= 1e-4 |b|. Where TRL is
installed, its SFTTrainer does the vanilla step on the same rows (trl_step.py). How seconds and memory are taken:
measuring.py.
"""

import argparse
import importlib.util
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
from torch import Tensor

from benchmarks import measuring, random_training, trl_step
from benchmarks.measuring import Goal, Step
from benchmarks.random_training import FOCUSED
from pipeline.model import collator
from pipeline.training import losses
from pipeline.training.objective import VANILLA, Encoder, Objective

TOLERANCE = 1e-4
FULL, ANSWER = "vanilla, full logits", "vanilla, answer logits"
NAIVE, TOKEN, SKIP = "focused, naive", "focused, `token`", "focused, `skip`"
VANILLA_EACH, VANILLA_ONE = "vanilla, a row each", "vanilla, one row"
SKIP_EACH, SKIP_ONE = "focused `skip`, a row each", "focused `skip`, one row"
TRL = "vanilla, TRL"
PAIRS = [(FULL, ANSWER), (NAIVE, TOKEN), (VANILLA_ONE, VANILLA_EACH), (SKIP_ONE, SKIP_EACH)]


def with_labels(network: Any, rows: Sequence[collator.TokenRow], device: torch.device) -> dict[str, Tensor]:
    """What transformers and TRL take: labels in the place of their tokens, -100 elsewhere."""
    view = collator.collate(rows, random_training.PAD).to(device)
    labels_BL = torch.full_like(view.input_ids_BL, -100)
    for number, row in enumerate(rows):
        end = row.segments[0].prompt_end
        labels_BL[number, end : len(row)] = view.input_ids_BL[number, end : len(row)]
    return {"input_ids": view.input_ids_BL, "attention_mask": view.mask_BL, "labels": labels_BL}


def full_logits(encoder: Encoder, given: dict[str, Tensor]) -> None:
    encoder.network(**given, use_cache=False).loss.backward()


def naive(encoder: Encoder, full: dict[str, Tensor], masked: dict[str, Tensor], prompt_end: int) -> None:
    found = [encoder.network(**given, use_cache=False, output_hidden_states=True) for given in (full, masked)]
    z_full_BD, z_masked_BD = (views.hidden_states[-1][:, prompt_end - 1] for views in found)
    contrast = losses.info_nce(z_full_BD, z_masked_BD, FOCUSED.temperature)
    loss = FOCUSED.full * found[0].loss + FOCUSED.masked * found[1].loss + FOCUSED.contrastive * contrast.loss
    loss.backward()


def ways(encoder: Encoder, arguments: argparse.Namespace) -> tuple[dict[str, Step], dict[str, Step]]:
    """Steps over a batch of documents, and over the questions of one document."""
    size = {name: getattr(arguments, name) for name in ("tokens", "answer", "chunks", "keep", "vocab")}
    made = random_training.examples(arguments.batch, **size)
    full, token = (with_labels(encoder.network, rows, arguments.device) for rows in (made.full, made.masked["token"]))
    asked = random_training.examples(arguments.questions, **size, one_document=True)

    def ours(num: int, objective: Objective, *sides: Sequence[collator.TokenRow], batch_tokens: int = 1) -> Step:
        packed = random_training.batch(num, *sides, batch_tokens=batch_tokens, device=arguments.device)
        return lambda: random_training.accumulate(encoder, packed, objective)

    one = {"batch_tokens": arguments.batch * arguments.tokens}
    documents: dict[str, Step] = {
        FULL: lambda: full_logits(encoder, full),
        ANSWER: ours(arguments.batch, VANILLA, made.full, **one),
        NAIVE: lambda: naive(encoder, full, token, arguments.tokens - arguments.answer),
        TOKEN: ours(arguments.batch, FOCUSED, made.full, made.masked["token"], **one),
        SKIP: ours(arguments.batch, FOCUSED, made.full, made.masked["skip"], **one),
    }
    assert asked.shared is not None
    questions = {
        VANILLA_EACH: ours(arguments.questions, VANILLA, asked.full),
        VANILLA_ONE: ours(arguments.questions, VANILLA, [asked.shared]),
        SKIP_EACH: ours(arguments.questions, FOCUSED, asked.full, asked.masked["skip"]),
        SKIP_ONE: ours(arguments.questions, FOCUSED, [asked.shared], asked.masked["skip"]),
    }
    if arguments.trl:
        documents |= trl_step.make(encoder, full)
    return documents, questions


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Seconds by round and MiB of every way, differences of the pairs, goals."""
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
    )
    documents, questions = ways(encoder, arguments)
    steps = documents | questions
    peaks, found = measuring.first_run(encoder, steps, arguments.device)
    pairs = [*PAIRS, *((way, ANSWER) for way in documents if way.startswith(TRL))]
    differences = measuring.assert_equal(found, pairs, TOLERANCE)
    del found
    seconds = measuring.rounds(encoder, steps, arguments.rounds, arguments.device)
    rows = []
    for what, table, reference in (
        (f"{arguments.batch} documents, a question each", documents, ANSWER),
        (f"{arguments.questions} questions of one document", questions, VANILLA_EACH),
    ):
        for name in table:
            rows.append(
                {
                    "what": what,
                    "way": name,
                    "seconds": seconds[name],
                    "mib": peaks[name],
                    "ratio": measuring.ratio(seconds[name], seconds[reference]),
                    "mib_ratio": peaks[name] / peaks[reference],
                }
            )
    of = {row["way"]: row["ratio"].median for row in rows}
    goals = [
        Goal("`skip` to vanilla, seconds", "at most", 1.40, of[SKIP]),
        Goal("`token` to vanilla, seconds", "at most", 2.15, of[TOKEN]),
        Goal(f"focused `skip`, {arguments.questions} questions in one row, to vanilla", "at most", 0.75, of[SKIP_ONE]),
        Goal("naive to `skip`, seconds", "at least", 2.5, measuring.ratio(seconds[NAIVE], seconds[SKIP]).median),
        Goal("naive to `skip`, MiB", "at least", 2.5, peaks[NAIVE] / peaks[SKIP]),
    ]
    return {"rows": rows, "differences": differences, "goals": goals}


def show(arguments: argparse.Namespace, found: dict[str, Any]) -> None:
    print(
        f"torch {torch.__version__}, {arguments.device}, {torch.get_num_threads()} thread, fp32; hidden "
        f"{arguments.hidden}, {arguments.layers} layers, vocabulary {arguments.vocab:,}; {arguments.tokens:,} tokens, "
        f"{arguments.answer} of them answer, {arguments.keep} of {arguments.chunks} chunks kept; "
        f"{arguments.rounds} rounds"
    )
    for what in dict.fromkeys(row["what"] for row in found["rows"]):
        print(f"\n| {what} | seconds | times vanilla (lowest to highest) | peak MiB | times |\n|---|---|---|---|---|")
        for row in found["rows"]:
            if row["what"] == what:
                print(
                    f"| {row['way']} | {statistics.median(row['seconds']):.2f} | {row['ratio']} | {row['mib']:,.0f} | "
                    f"{row['mib_ratio']:.2f} |"
                )
    print(f"\nGradients, largest |a - b| / |b| of a parameter (allowed: {TOLERANCE:.0e}):")
    for pair, difference in found["differences"].items():
        print(f"- {pair}: {difference:.1e}")
    if not arguments.trl:
        print("- TRL is not installed or not asked for: no row of its SFTTrainer; `pip install trl` and run again")
    measuring.print_goals(found["goals"])


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default, text in (
        ("tokens", 2048, "of a full view"),
        ("batch", 2, "documents of a step"),
        ("questions", 4, "of one document, in one row"),
        ("answer", 32, "tokens of the answer"),
        ("chunks", 15, "of a document"),
        ("keep", 4, "chunks that the masked view keeps"),
        ("hidden", 512, ""),
        ("layers", 4, ""),
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("rounds", 3, ""),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    installed = importlib.util.find_spec("trl") is not None
    parser.add_argument("--trl", action=argparse.BooleanOptionalAction, default=installed, help="a row of TRL's step")
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    found = measuring.setting(arguments) | measure(arguments)
    show(arguments, found)
    measuring.write(arguments.results, found)
    return found


if __name__ == "__main__":
    main()
