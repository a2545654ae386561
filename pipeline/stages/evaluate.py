"""Stage evaluate@<method>: the method's greedy answers to the test questions, scored.

Each example is asked twice: over its `full` context, and with `retrieval` at inference, over the best-ranked chunks
alone (in context order). reports/eval/<method>.json has, for each input, the same figures over all examples
(`overall`), by number of documents, and by number of documents and fifth of the context that holds the gold document.
"""

import difflib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from pipeline import config, files, tables, tokenization, weights
from pipeline.core import evaluation, generation, masking, metrics
from pipeline.errors import ArtifactError, ConfigError, DataError, run
from pipeline.settings import EvaluateStage

METHODS = ("base", "vanilla", "focused")
INPUTS = ("full", "retrieval")
COPIED = ("example_id", "question_id", "benchmark", "num_documents", "gold_position", "answers")

FULL, SCORES = Path("data/views/full.parquet"), Path("data/scores.parquet")
EXAMPLES, CHUNKS = Path("data/examples.parquet"), Path("data/chunks.parquet")
PREDICTIONS, FIGURES = Path("reports/predictions"), Path("reports/eval")


class Ask(NamedTuple):
    """One example with one input."""

    example: tables.Row
    input: str
    chunk_ids: list[str]
    """The chunks the model is given."""
    prompt: int
    """Which of the distinct prompts; both inputs share one where no chunk is left out."""


def main() -> None:
    method = _method(sys.argv[1:])
    settings = config.load(EvaluateStage)
    card, tokenizer = weights.read_card(), tokenization.load().tokenizer
    if (found := tables.metadata(FULL, tables.FULL_VIEWS).get("tokenizer_sha256")) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{FULL}: made with tokenizer {found}, {weights.BASE} has {card.tokenizer_sha256}; run `dvc repro tokenize`"
        )
    asks, prompts = _asks(settings.eval.retrieval_top_k, card.mask_id)
    chunk_of = _chunks({chunk_id for ask in asks for chunk_id in ask.chunk_ids})
    network = weights.load_method(method, settings.model)
    with tqdm(total=len(prompts), desc=f"evaluate@{method}", unit=" prompts", disable=None, mininterval=1) as bar:
        outputs = generation.generate(
            network,
            prompts,
            max_new_tokens=settings.eval.max_new_tokens,
            eos_id=card.eos_id,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.eval.batch_tokens,
            progress=bar.update,
        )
    predictions = [metrics.first_line(tokenizer.decode(output)) for output in outputs]
    rows = [_row(ask, method, predictions[ask.prompt], len(prompts[ask.prompt]), chunk_of) for ask in asks]
    figures = {
        name: evaluation.figures([row for row in rows if row["input"] == name], settings.eval.bootstrap_resamples)
        for name in INPUTS
    }
    tables.write(PREDICTIONS / f"{method}.parquet", tables.PREDICTIONS, rows)
    files.write_json(FIGURES / f"{method}.json", {"method": method, "inputs": figures})
    longest = [(name, figures[name]["by_num_documents"][-1]) for name in INPUTS]
    print(
        f"evaluate@{method}: {len(asks) // 2:,} test examples, {len(prompts):,} distinct prompts; exact match at "
        f"{longest[0][1]['num_documents']} documents: "
        + ", ".join(f"{name} {of['exact_match']['mean']:.1%}" for name, of in longest)
        + f"; distraction errors {longest[0][1]['distraction_rate']['mean']:.1%}"
    )


def _method(arguments: Sequence[str]) -> str:
    if len(arguments) == 1 and arguments[0] in METHODS:
        return arguments[0]
    given = " ".join(arguments) or "none"
    close = difflib.get_close_matches(given, METHODS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"evaluate takes one method, got {given}{hint}; choose from {', '.join(METHODS)}")


def _test_rows() -> Iterator[tuple[tables.Row, tables.Row]]:
    """Full view, with the example's own columns, and scores of each test example."""
    rows = tables.side_by_side(
        (FULL, tables.FULL_VIEWS, None),
        (SCORES, tables.SCORES, ["example_id", "chunk_ids", "ranks"]),
        (EXAMPLES, tables.EXAMPLES, ["example_id", "benchmark", "answers", "gold_document_ids"]),
    )
    for full, scored, example in rows:
        if full["chunk_ids"] != scored["chunk_ids"]:
            raise ArtifactError(
                f"{SCORES}: chunks of example {full['example_id']} are not those in {FULL}; run "
                "`dvc repro -f score tokenize`"
            )
        if full["split"] == "test":
            yield {**full, **example}, scored


def _asks(top_k: int, mask_id: int) -> tuple[list[Ask], list[masking.Ints]]:
    """Both inputs of every test example, and the distinct prompts they need."""
    asks: list[Ask] = []
    prompts: list[masking.Ints] = []
    for row, scored in _test_rows():
        prompt = np.asarray(row.pop("input_ids")[: row["prompt_end"]], dtype=np.int32)
        prompts.append(prompt)
        asks.append(Ask(row, "full", row["chunk_ids"], len(prompts) - 1))
        kept_C = masking.keep_top(np.asarray(scored["ranks"], dtype=np.int32), top_k)
        if not kept_C.all():
            starts_C, ends_C = np.asarray(row["chunk_starts"]), np.asarray(row["chunk_ends"])
            view = masking.masked_view(prompt, starts_C, ends_C, row["prompt_end"], kept_C, "drop", mask_id)
            prompts.append(view.input_ids)
        given = [row["chunk_ids"][index] for index in np.flatnonzero(kept_C)]
        asks.append(Ask(row, "retrieval", given, len(prompts) - 1))
    if not asks:
        raise DataError(
            f"{FULL}: no examples in split test; set data.test_questions, or give questions with split test"
        )
    return asks, prompts


def _chunks(wanted: set[str]) -> dict[str, tables.Row]:
    found = {row["chunk_id"]: row for row in tables.scan(CHUNKS, tables.CHUNKS) if row["chunk_id"] in wanted}
    if missing := wanted - found.keys():
        raise ArtifactError(f"{CHUNKS}: has no chunk {min(missing)}, which {FULL} names; run `dvc repro tokenize`")
    return found


def _row(ask: Ask, method: str, prediction: str, prompt_tokens: int, chunk_of: dict[str, tables.Row]) -> tables.Row:
    given = [chunk_of[chunk_id] for chunk_id in ask.chunk_ids]
    distractors = evaluation.distractors(given, ask.example["gold_document_ids"])
    return {
        **{name: ask.example[name] for name in COPIED},
        **evaluation.score(prediction, ask.example["answers"], distractors),
        "method": method,
        "input": ask.input,
        "prompt_tokens": prompt_tokens,
    }


if __name__ == "__main__":
    run(main)
