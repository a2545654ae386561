"""Stage analyze: do the two views of an example mean the same to each method, and are they told from others?"""

from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from pipeline import adapters, config, files, tables, tokenization, weights
from pipeline.core import alignment, batching, evaluation, focus, generation, metrics, model, tasks
from pipeline.device import device
from pipeline.errors import DataError, run
from pipeline.settings import AnalyzeStage

METHODS = ("base", "vanilla", "focused")
FULL, MASKED = Path("data/views/full.parquet"), Path("data/views/masked.parquet")
PREDICTIONS = Path("reports/predictions")
ANALYSIS = Path("reports/analysis.json")


class Pair(NamedTuple):
    """Both views of one example."""

    full: tables.Row
    masked: tables.Row


def main() -> None:
    settings = config.load(AnalyzeStage)
    card, tokenizer = weights.read_card(), tokenization.load().tokenizer
    pairs = _longest_pairs(settings.eval.split, settings.analyze.examples)
    methods: dict[str, Any] = {}
    for method in tqdm(METHODS, desc="analyze", unit=" methods", disable=None):
        full = _full_answers(method, pairs)
        task = tasks.of(full[0]["benchmark"])
        network = adapters.load_method(method, settings.model)
        outputs = generation.generate(
            network,
            [pair.masked["input_ids"][: pair.masked["prompt_end"]] for pair in pairs],
            positions=[pair.masked["position_ids"][: pair.masked["prompt_end"]] for pair in pairs],
            max_new_tokens=settings.eval.max_new_tokens or task.max_new_tokens,
            eos_id=card.eos_id,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.eval.batch_tokens,
        )
        answers = [evaluation.answer_text(tokenizer.decode(output), task) for output in outputs]
        methods[method] = {
            **_representations(network, pairs, settings.eval.batch_tokens, card.pad_id)._asdict(),
            **_equivalence(answers, full),
        }
    num_documents = pairs[0].full["num_documents"]
    retained = [pair.masked["gold_retained"] for pair in pairs if pair.full["gold_position"] >= 0]  # else unknown
    files.write_json(
        ANALYSIS,
        {
            "num_examples": len(pairs),
            "num_documents": num_documents,
            "gold_retained": sum(retained) / len(retained) if retained else None,
            "methods": methods,
        },
    )
    found = ", ".join(f"{name} {of['alignment']:.2f}/{of['answers_equal']:.0%}" for name, of in methods.items())
    print(
        f"analyze: {len(pairs):,} {settings.eval.split} examples at {num_documents} documents; cosine of the views / "
        f"same answer from both: {found}"
    )


def _longest_pairs(split: str, num_examples: int) -> list[Pair]:
    """The first examples of the split among those with the most documents."""
    longest = max(
        (
            row["num_documents"]
            for row in tables.scan(FULL, tables.FULL_VIEWS, ["split", "num_documents"])
            if row["split"] == split
        ),
        default=0,
    )
    rows = tables.side_by_side((FULL, tables.FULL_VIEWS, None), (MASKED, tables.MASKED_VIEWS, None))
    wanted = (Pair(*row) for row in rows if row[0]["split"] == split and row[0]["num_documents"] == longest)
    pairs = list(islice(wanted, num_examples))
    if len(pairs) < 2:
        raise DataError(
            f"{FULL}: analyze compares {split} examples with each other, {len(pairs)} found; give at least 2"
        )
    return pairs


def _representations(network: Any, pairs: list[Pair], batch_tokens: int, pad_id: int) -> alignment.Alignment:
    """Of the last prompt token, whatever training compared: it is where the answer is decided."""
    z = {name: [torch.empty(0)] * len(pairs) for name in Pair._fields}
    for name in Pair._fields:
        rows = [getattr(pair, name) for pair in pairs]
        prompts = [np.asarray(row["input_ids"][: row["prompt_end"]], dtype=np.int32) for row in rows]
        places = [
            np.asarray(row.get("position_ids", range(len(ids))))[: len(ids)]
            for row, ids in zip(rows, prompts, strict=True)
        ]
        for batch in generation.batches([len(ids) for ids in prompts], batch_tokens):
            ids, positions = [prompts[i] for i in batch], [places[i] for i in batch]
            view = batching.pad(ids, positions, [len(prompt) for prompt in ids], pad_id).to(device())
            with torch.inference_mode():
                vectors = focus.represent(model.hidden_states(network, view), view, "last_prompt")
            for index, vector in zip(batch, vectors.cpu(), strict=True):
                z[name][index] = vector
    return alignment.align(torch.stack(z["full"]), torch.stack(z["masked"]))


def _full_answers(method: str, pairs: list[Pair]) -> list[tables.Row]:
    """What the method answered to the same examples over the full context."""
    wanted = {pair.full["example_id"] for pair in pairs}
    rows = tables.scan(PREDICTIONS / f"{method}.parquet", tables.PREDICTIONS)
    found = {row["example_id"]: row for row in rows if row["input"] == "full" and row["example_id"] in wanted}
    return [found[pair.full["example_id"]] for pair in pairs]


def _equivalence(answers: list[str], full: list[tables.Row]) -> dict[str, float]:
    """The method assumes that both views mean the same; here is how often they are answered the same."""
    same = [
        metrics.normalize(answer) == metrics.normalize(row["prediction"])
        for answer, row in zip(answers, full, strict=True)
    ]
    masked_scores = [evaluation.generated_score(answer, row) for answer, row in zip(answers, full, strict=True)]
    full_scores = [evaluation.generated_score(row["prediction"], row) for row in full]
    return {
        "answers_equal": sum(same) / len(same),
        "masked_score": sum(masked_scores) / len(masked_scores),
        "full_score": sum(full_scores) / len(full_scores),
    }


if __name__ == "__main__":
    run(main)
