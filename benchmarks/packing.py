"""`train.batch_tokens`: rows of a batch padded into one forward, or each row a forward of its own?

    OMP_NUM_THREADS=1 python benchmarks/packing.py [--batch 8] [--lengths 500 1000] [--rounds 5]

Focused steps (masked view: `token`) of models/tiny-base over a default batch: full and masked views of 500 to 1,000
tokens. All ways have the same gradient, for each parameter |a - b| <= 1e-4 |b|, or the run fails. How seconds and
memory are taken: measuring.py.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from benchmarks import measuring, random_training
from benchmarks.random_training import FOCUSED, MASK
from pipeline.model import collator

BASE = Path(__file__).resolve().parents[1] / "models/tiny-base"
TOLERANCE = 1e-4
WAYS = {"each row alone": 1, "2,048": 2048, "4,096": 4096, "8,192": 8192, "16,384": 16_384}  # train.batch_tokens
ALONE = next(iter(WAYS))
ANSWER, MASKED = 8, (0.1, 0.7)  # tokens; from where to where the masked view is <mask>, as a share of the row


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = random_training.encoder_of(AutoModelForCausalLM.from_pretrained(BASE))
    vocab = encoder.network.get_input_embeddings().weight.shape[0]
    draw = np.random.default_rng(0)
    full, masked = [], []
    for length in draw.integers(arguments.lengths[0], arguments.lengths[1] + 1, arguments.batch):
        ids = draw.integers(random_training.FIRST, vocab, length).astype(np.int32)
        hidden = ids.copy()
        hidden[int(MASKED[0] * length) : int(MASKED[1] * length)] = MASK
        for side, view in ((full, ids), (masked, hidden)):
            side.append(collator.row_of_one(view, np.arange(length, dtype=np.int32), length - ANSWER))
    made = {
        name: random_training.batch(arguments.batch, full, masked, batch_tokens=batch_tokens)
        for name, batch_tokens in WAYS.items()
    }
    steps = {
        name: lambda batch=batch: random_training.accumulate(encoder, batch, FOCUSED) for name, batch in made.items()
    }
    device = torch.device("cpu")
    peaks, found = measuring.first_run(encoder, steps, device)
    differences = measuring.assert_equal(found, [(name, ALONE) for name in WAYS if name != ALONE], TOLERANCE)
    seconds = measuring.rounds(encoder, steps, arguments.rounds, device)
    tokens = sum(map(len, full + masked))
    rows = [
        {
            "way": name,
            "forwards": len(made[name].micro_batches),
            "padding": sum(one.inputs.mask_BL.numel() for one in made[name].micro_batches) / tokens - 1,
            "seconds": seconds[name],
            "ratio": measuring.ratio(seconds[name], seconds[ALONE]),
            "mib": peaks[name],
        }
        for name in WAYS
    ]
    return {"rows": rows, "differences": differences}


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="examples of a step")
    parser.add_argument("--lengths", type=int, nargs=2, default=[500, 1000], help="shortest and longest view, tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, help="where to put the measured values as JSON")
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    found = measuring.setting(arguments) | measure(arguments)
    print(
        f"torch {torch.__version__}, CPU, {torch.get_num_threads()} thread, fp32; models/tiny-base, {arguments.batch} "
        f"full and {arguments.batch} masked views of {arguments.lengths[0]:,} to {arguments.lengths[1]:,} tokens; "
        f"{arguments.rounds} rounds\n"
    )
    print("| train.batch_tokens | forwards | padding | seconds | times each row alone (lowest to highest) | peak MiB |")
    print("|---|---|---|---|---|---|")
    for row in found["rows"]:
        print(
            f"| {row['way']} | {row['forwards']} | {row['padding']:.0%} | {statistics.median(row['seconds']):.2f} | "
            f"{row['ratio']} | {row['mib']:,.0f} |"
        )
    worst = max(found["differences"].values())
    print(f"\nGradients, largest |a - b| / |b| of a parameter: {worst:.1e} (allowed: {TOLERANCE:.0e})")
    measuring.write(arguments.results, found)
    return found


if __name__ == "__main__":
    main()
