"""Training steps of a random Mistral-7B in bf16 on one GPU: tokens per second, share of the GPU's peak, memory.

    python benchmarks/gpu.py [--lengths 4096 8192 16384 32768] [--peak 989e12] [--results benchmarks/results/gpu.json]

Needs torch, transformers, peft, accelerate and numpy; no network, no weights. Every layer is checkpointed; LoRA (r = 8)
on attention and embedding and the norms are trained in fp32. A row that does not fit into memory says so and the next
one is tried. Ways (keep 25 % of the chunks, InfoNCE in every focused step):

    vanilla                one example, logits at the answer
    token, skip            one example and its masked view
    shared vanilla, skip   questions of one document in one row (flex attention; on the CPU, where flex attention has no
                           backward, SDPA with a dense mask)
    cached skip            a contrastive batch by cached gradients, a forward for each row

Tokens are those of the examples' full views, a row each: what a plain fine-tuning would have read. FLOPs are those of
the plan: the pairs of tokens that may see each other, frozen matrices without a gradient of their own, the
checkpointed forward counted whole; so the share (MFU) counts recomputation as work. On a CPU it means nothing. Before
all that a small model in fp32 must have the same gradient with the questions in one row as with a row each, and cached
as with one graph, or the run fails: for each parameter |a - b| <= 1e-3 |b|.
"""

import argparse
import gc
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from benchmarks import measuring, random_training
from benchmarks.random_training import FOCUSED, LORA
from pipeline.model import causal_lm, collator
from pipeline.tools.plan import cost, model_shape
from pipeline.tools.plan.model_shape import Shape
from pipeline.training import objective as focus
from pipeline.training.dataset import StepBatch

VANILLA, FLEX = "vanilla", "flex_attention"
OUT_OF_MEMORY, NEWLINE = "out of memory", "\n"
TOLERANCE = 1e-3  # |a - b| / |b| of each parameter's gradient
ATTENTION_FORWARDS = 1 + 2.5 + 1  # forward, backward, recomputed


class Way(NamedTuple):
    """One step."""

    batch: StepBatch
    objective: focus.Objective
    negatives: random_training.Negatives
    attention: str
    tokens: int
    """Of the full views, a row each."""
    flops: float


def pairs(row: collator.TokenRow) -> float:
    """Pairs of a token and one that it may see."""
    shared = row.num_shared
    own = [segment.end - segment.start for segment in row.segments]
    return shared * (shared + 1) / 2 + sum(tokens * shared + tokens * (tokens + 1) / 2 for tokens in own)


def row_flops(shape: Shape, row: collator.TokenRow, *, cached: bool) -> float:
    labels = sum(segment.end - segment.prompt_end for segment in row.segments)
    whole = cost.training_flops(
        shape, len(row), labels=labels, recompute="whole", rank=LORA["rank"], embedding=True, cached=cached
    )
    not_seen = len(row) * (len(row) + 1) / 2 - pairs(row)
    return whole - (ATTENTION_FORWARDS + cached) * 4 * shape.layers * shape.attention * not_seen


def way(
    arguments: argparse.Namespace,
    full: Sequence[collator.TokenRow],
    masked: Sequence[collator.TokenRow] = (),
    *,
    negatives: random_training.Negatives = "graph",
) -> Way:
    """A step over full views, a row each or all in one, and their masked views."""
    shape = shape_of(arguments)
    segments = [segment for row in full for segment in row.segments]
    shared = len(full) < len(segments)
    made = random_training.batch(len(segments), full, masked, device=arguments.device)
    return Way(
        made,
        FOCUSED if masked else focus.VANILLA,
        negatives,
        FLEX if shared and arguments.device.type == "cuda" else "sdpa",
        sum(full[0].num_shared + segment.end - segment.start for segment in segments),
        sum(row_flops(shape, row, cached=negatives == "cached") for row in (*full, *masked)),
    )


def rows_of(arguments: argparse.Namespace, num: int, tokens: int, one_document: bool = False) -> Any:
    size: Any = {name: getattr(arguments, name) for name in ("answer", "chunks", "keep", "vocab")}
    return random_training.examples(num, tokens=tokens, one_document=one_document, **size)


def ways(arguments: argparse.Namespace, tokens: int) -> dict[str, Way]:
    single = rows_of(arguments, 1, tokens)
    asked = rows_of(arguments, arguments.questions, tokens, one_document=True)
    many = rows_of(arguments, arguments.batch, tokens)
    return {
        VANILLA: way(arguments, single.full),
        "token": way(arguments, single.full, single.masked["token"]),
        "skip": way(arguments, single.full, single.masked["skip"]),
        f"shared vanilla, {arguments.questions} questions": way(arguments, [asked.shared]),
        f"shared skip, {arguments.questions} questions": way(arguments, [asked.shared], asked.masked["skip"]),
        f"cached skip, {arguments.batch} examples": way(arguments, many.full, many.masked["skip"], negatives="cached"),
    }


def equal_gradients(arguments: argparse.Namespace) -> dict[str, float]:
    """Of a small model in fp32: one row of all questions against a row each, cached against one graph."""
    small = argparse.Namespace(**vars(arguments))
    small.hidden, small.layers = min(arguments.hidden, 512), min(arguments.layers, 4)
    tokens = min(*arguments.lengths, 1024)
    encoder = encoder_of(small, tokens, torch.float32)
    asked = rows_of(small, small.questions, tokens, one_document=True)
    sides = (asked.full, asked.masked["skip"])
    found = {}
    for name, step in {
        "one row": way(small, [asked.shared], asked.masked["skip"]),
        "a row each": way(small, *sides),
        "cached": way(small, *sides, negatives="cached"),
    }.items():
        run(encoder, step)
        found[name] = {label: part.grad for label, part in encoder.named_parameters() if part.grad is not None}
    return measuring.assert_equal(found, [("one row", "a row each"), ("cached", "a row each")], TOLERANCE)


def shape_of(arguments: argparse.Namespace) -> Shape:
    heads = 32 if arguments.hidden >= 1024 else 4
    config = {
        "model_type": "mistral",
        "num_hidden_layers": arguments.layers,
        "hidden_size": arguments.hidden,
        "intermediate_size": 7 * arguments.hidden // 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 4,
        "vocab_size": arguments.vocab,
    }
    return model_shape.parse(config, 2, "the arguments")


def encoder_of(arguments: argparse.Namespace, tokens: int, dtype: torch.dtype) -> focus.Encoder:
    shape = shape_of(arguments)
    encoder = random_training.encoder_of(
        random_training.network(
            vocab=shape.vocabulary,
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.heads // 4,
            tokens=tokens,
            dtype=dtype,
            device=arguments.device,
        )
    )
    random_training.checkpoint(encoder, True)
    return encoder


def run(encoder: focus.Encoder, way: Way) -> None:
    encoder.zero_grad()
    causal_lm.unwrap(encoder.network).set_attn_implementation(way.attention)
    random_training.accumulate(encoder, way.batch, way.objective, way.negatives)


def peak_gib(encoder: focus.Encoder, way: Way, device: torch.device) -> float | str:
    """GiB in use at the peak, weights included (on a CPU what the step allocates alone), or why there is no step.

    A way that fails costs its row, not the hours of the others; the run ends with an error then.
    """
    try:
        run(encoder, way)  # compilation takes memory that the next step does not
        encoder.zero_grad()
        before = torch.cuda.memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
        return (before + measuring.peak_mib(lambda: run(encoder, way), device)) / 1024
    except Exception as error:  # what compiles a kernel wraps an out-of-memory in errors of its own
        if "out of memory" in str(error).lower():
            return OUT_OF_MEMORY
        return f"failed: {type(error).__name__}: {str(error).strip().partition(NEWLINE)[0]}"
    finally:
        encoder.zero_grad()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    found = measuring.setting(arguments)
    found["gpu"] = torch.cuda.get_device_name(arguments.device) if arguments.device.type == "cuda" else None
    found["differences"] = equal_gradients(arguments)
    for pair, difference in found["differences"].items():
        print(f"- gradients, {pair}: {difference:.1e} apart (fp32, allowed: {TOLERANCE:.0e})")
    encoder = encoder_of(arguments, max(arguments.lengths), torch.bfloat16)
    device = arguments.device
    rows = found["rows"] = []
    print("\n| tokens | step | seconds | tokens/s | times vanilla (lowest to highest) | MFU | peak GiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for tokens in arguments.lengths:
        torch.compiler.reset()  # flex attention compiled for this length, not for any
        made = ways(arguments, tokens)
        peaks = {name: peak_gib(encoder, way, device) for name, way in made.items()}
        steps = {
            name: lambda way=way: run(encoder, way) for name, way in made.items() if not isinstance(peaks[name], str)
        }
        seconds = measuring.rounds(encoder, steps, arguments.rounds, device)
        for name, way in made.items():
            row: dict[str, Any] = {"tokens": tokens, "way": name, "flops": way.flops}
            if name not in seconds:
                row["none"] = peaks[name]
            else:
                row["peak_gib"] = peaks[name]
                median = statistics.median(seconds[name])
                row |= {"seconds": seconds[name], "tokens_per_second": way.tokens / median}
                row["mfu"] = way.flops / median / arguments.peak
                if VANILLA in seconds:
                    row["ratio"] = measuring.ratio(seconds[name], seconds[VANILLA], tokens / way.tokens)
            rows.append(row)
            print(line(row), flush=True)
        measuring.write(arguments.results, found)  # what is measured stays, whatever the next length does
    return found


def line(row: dict[str, Any]) -> str:
    """Of the table; the ratio is per example."""
    start = f"| {row['tokens']:,} | {row['way']} |"
    if "none" in row:
        return f"{start} {row['none']} | | | | |"
    return (
        f"{start} {statistics.median(row['seconds']):.3f} | {row['tokens_per_second']:,.0f} | {row.get('ratio', '')} | "
        f"{row['mfu']:.1%} | {row['peak_gib']:.1f} |"
    )


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 16_384, 32_768], help="of a full view")
    for name, default, text in (
        ("questions", 4, "of one document, in one row"),
        ("batch", 4, "examples of the contrastive batch"),
        ("answer", 32, "tokens of the answer"),
        ("chunks", 40, "of a document"),
        ("keep", 10, "chunks that the masked view keeps"),
        ("hidden", 4096, ""),
        ("layers", 32, ""),
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("rounds", 3, ""),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    parser.add_argument("--peak", type=float, default=989e12, help="FLOP/s of the GPU (H100 and H200, dense bf16)")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    if arguments.device.type == "cpu":
        torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {arguments.device}, bf16, {arguments.rounds} rounds\n")
    found = measure(arguments)
    if any(row.get("none", OUT_OF_MEMORY) != OUT_OF_MEMORY for row in found["rows"]):
        raise SystemExit("some steps failed, see the table")
    return found


if __name__ == "__main__":
    main()
