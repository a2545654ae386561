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
pipeline/core/cost.py: the pairs of tokens that may see each other, frozen matrices without a gradient of their own, the
checkpointed forward counted whole; so the share (MFU) counts recomputation as work. On a CPU it means nothing.
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
from pipeline.core import batching, cost, focus, gradients, model
from pipeline.core.shapes import Shape

VANILLA, FLEX = "vanilla", "flex_attention"
OUT_OF_MEMORY, NEWLINE = "out of memory", "\n"
ATTENTION_FORWARDS = 1 + 2.5 + 1  # forward, backward, recomputed


class Way(NamedTuple):
    """One step."""

    batch: gradients.Batch
    objective: focus.Objective
    retained: bool
    attention: str
    tokens: int
    """Of the full views, a row each."""
    flops: float


def pairs(row: batching.Row) -> float:
    """Pairs of a token and one that it may see."""
    shared = row.num_shared
    own = [branch.end - branch.start for branch in row.branches]
    return shared * (shared + 1) / 2 + sum(tokens * shared + tokens * (tokens + 1) / 2 for tokens in own)


def row_flops(shape: Shape, row: batching.Row, *, cached: bool) -> float:
    labels = sum(branch.end - branch.prompt_end for branch in row.branches)
    whole = cost.training_flops(
        shape, len(row), labels=labels, recompute="whole", rank=LORA["rank"], embedding=True, cached=cached
    )
    not_seen = len(row) * (len(row) + 1) / 2 - pairs(row)
    return whole - (ATTENTION_FORWARDS + cached) * 4 * shape.layers * shape.attention * not_seen


def ways(arguments: argparse.Namespace, shape: Shape, tokens: int) -> dict[str, Way]:
    size: Any = {name: getattr(arguments, name) for name in ("answer", "chunks", "keep", "vocab")} | {"tokens": tokens}
    single = random_training.examples(1, **size)
    asked = random_training.examples(arguments.questions, **size, one_document=True)
    many = random_training.examples(arguments.batch, **size)
    assert asked.shared is not None
    flex = FLEX if arguments.device.type == "cuda" else "sdpa"

    def way(
        num: int,
        full: Sequence[batching.Row],
        masked: Sequence[batching.Row] = (),
        *,
        retained: bool = True,
        attention: str = "sdpa",
    ) -> Way:
        objective = FOCUSED if masked else focus.VANILLA
        flops = sum(row_flops(shape, row, cached=not retained) for row in (*full, *masked))
        made = random_training.batch(num, full, masked, device=arguments.device)
        return Way(made, objective, retained, attention, num * tokens, flops)

    return {
        VANILLA: way(1, single.full),
        "token": way(1, single.full, single.masked["token"]),
        "skip": way(1, single.full, single.masked["skip"]),
        f"shared vanilla, {arguments.questions} questions": way(arguments.questions, [asked.shared], attention=flex),
        f"shared skip, {arguments.questions} questions": way(
            arguments.questions, [asked.shared], asked.masked["skip"], attention=flex
        ),
        f"cached skip, {arguments.batch} examples": way(
            arguments.batch, many.full, many.masked["skip"], retained=False
        ),
    }


def run(encoder: focus.Encoder, way: Way) -> None:
    encoder.zero_grad()
    model.causal_lm(encoder.network).set_attn_implementation(way.attention)
    random_training.accumulate(encoder, way.batch, way.objective, way.retained)


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
    heads = 32 if arguments.hidden >= 1024 else 4
    shape = Shape(
        layers=arguments.layers,
        hidden=arguments.hidden,
        intermediate=7 * arguments.hidden // 2,
        heads=heads,
        kv_heads=heads // 4,
        head_dim=arguments.hidden // heads,
        vocabulary=arguments.vocab,
        window=None,
        bytes_per_weight=2,
    )
    encoder = random_training.encoder_of(
        random_training.network(
            vocab=shape.vocabulary,
            hidden=shape.hidden,
            layers=shape.layers,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            tokens=max(arguments.lengths),
            dtype=torch.bfloat16,
            device=arguments.device,
        )
    )
    random_training.checkpoint(encoder, True)
    device, rows = arguments.device, []
    print("| tokens | step | seconds | tokens/s | times vanilla (lowest to highest) | MFU | peak GiB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    for tokens in arguments.lengths:
        made = ways(arguments, shape, tokens)
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
    return {"device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu", "rows": rows}


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
    found = measuring.setting(arguments)
    found |= measure(arguments)
    measuring.write(arguments.results, found)
    if any(row.get("none", OUT_OF_MEMORY) != OUT_OF_MEMORY for row in found["rows"]):
        raise SystemExit("some steps failed, see the table")
    return found


if __name__ == "__main__":
    main()
