"""Stage evaluate@<method>: the method's answers to the test questions, scored by the benchmark's own rules.

Each example is asked over its `full` context and, with `retrieval` at inference, over the best-ranked chunks alone (in
context order); with eval.longbench also over LongBench's choice of chunks. reports/eval/<method>.json has, for each
input, the same figures over all examples (`overall`), by number of documents, by number of documents and fifth of the
context that holds the gold document, and the `official` ones.

`--score PREDICTIONS --references FILE --benchmark NAME` scores anybody's predictions instead (pipeline/scoring.py).
"""

import difflib
import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline import config, files, tables, tokenization
from pipeline.core import evaluation, tasks, views
from pipeline.core.asking import Ask, Asks, Prompt
from pipeline.errors import ArtifactError, ConfigError, DataError, run
from pipeline.settings import EvaluateStage

METHODS = ("base", "vanilla", "focused")
LONGBENCH_TOP_K = 7  # chunks of 200 words: a retrieval setting of LongBench (arXiv 2308.14508)
COPIED = (
    "example_id", "question_id", "benchmark", "num_documents", "gold_position", "answers", "answer_types", "subset",
    "options", "gold_option",
)  # fmt: skip
EXAMPLE_COLUMNS = [
    "example_id", "benchmark", "question", "answer_lead", "options", "gold_option", "answers", "answer_types", "subset",
    "gold_document_ids",
]  # fmt: skip

FULL, SCORES = Path("data/views/full.parquet"), Path("data/scores.parquet")
EXAMPLES, CHUNKS = Path("data/examples.parquet"), Path("data/chunks.parquet")
PREDICTIONS, FIGURES = Path("reports/predictions"), Path("reports/eval")


def main() -> None:
    if "--score" in sys.argv[1:]:
        # By its name: it is no part of the stage, and an edit of it must not rerun the stage.
        importlib.import_module("pipeline.scoring").main(sys.argv[1:])
        return
    # Here, because torch takes seconds to import, and scoring does without.
    from pipeline import adapters, processes, weights
    from pipeline.core import answering

    method = _method(sys.argv[1:])
    settings = config.load(EvaluateStage)
    processes.launch("pipeline.stages.evaluate", [method])
    card, tokenizer = weights.read_card(), tokenization.load().tokenizer
    if (found := tables.metadata(FULL, tables.FULL_VIEWS).get("tokenizer_sha256")) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{FULL}: made with tokenizer {found}, {weights.BASE} has {card.tokenizer_sha256}; run `dvc repro tokenize`"
        )
    chunk_of = _chunks(settings.eval.split)
    longbench = {"longbench": LONGBENCH_TOP_K} if settings.eval.longbench else {}
    top_k_of = {"retrieval": settings.eval.retrieval_top_k} | longbench
    asks, asked = _asks(settings.eval.split, top_k_of, settings.model.max_tokens, chunk_of)
    task = tasks.of(asks[0].example["benchmark"])
    team = processes.Processes()
    share = answering.shares(asked, team.num)[team.rank]
    network = adapters.load_method(method, settings.model)
    with tqdm(total=len(share), desc=f"evaluate@{method}", unit=" prompts", disable=None, mininterval=1) as bar:
        own_answers = answering.answer_all(
            network,
            [asked[place] for place in share],
            max_new_tokens=settings.eval.max_new_tokens or task.max_new_tokens,
            eos_id=card.eos_id,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.eval.batch_tokens,
            progress=bar.update,
        )
    answer_of = team.collect(dict(zip(share, own_answers, strict=True)))
    team.close()
    if not team.first:
        return
    found_answers: list[answering.Answer] = [answer_of[place] for place in range(len(asked))]
    predictions = [evaluation.answer_text(tokenizer.decode(answer.output_ids), task) for answer in found_answers]
    rows = [
        _row(ask, method, predictions[ask.prompt], found_answers[ask.prompt].log_probs, asked[ask.prompt], chunk_of)
        for ask in asks
    ]
    inputs = list(dict.fromkeys(ask.input for ask in asks))
    figures = {
        name: evaluation.figures([row for row in rows if row["input"] == name], settings.eval.bootstrap_resamples)
        for name in inputs
    }
    tables.write(PREDICTIONS / f"{method}.parquet", tables.PREDICTIONS, rows)
    files.write_json(FIGURES / f"{method}.json", {"method": method, "measure": task.measure, "inputs": figures})
    longest = [(name, figures[name]["by_num_documents"][-1]) for name in inputs]
    num_documents = longest[0][1]["num_documents"]
    print(
        f"evaluate@{method}: {len(asks) // len(inputs):,} {settings.eval.split} examples, {len(asked):,} distinct "
        f"prompts over {len({prompt.key[0] for prompt in asked}):,} contexts; {task.measure.replace('_', ' ')} at "
        f"{num_documents} document{'s' * (num_documents != 1)}: "
        + ", ".join(f"{name} {of['score']['mean']:.1%}" for name, of in longest)
        + f"; distraction errors {longest[0][1]['distraction_rate']['mean']:.1%}"
    )


def _method(arguments: Sequence[str]) -> str:
    if len(arguments) == 1 and arguments[0] in METHODS:
        return arguments[0]
    given = " ".join(arguments) or "none"
    close = difflib.get_close_matches(given, METHODS, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise ConfigError(f"evaluate takes one method, got {given}{hint}; choose from {', '.join(METHODS)}")


def _rows(split: str) -> Iterator[tuple[tables.Row, tables.Row]]:
    """Full view, with the example's own columns, and scores of each example of the split."""
    rows = tables.side_by_side(
        (FULL, tables.FULL_VIEWS, None),
        (SCORES, tables.SCORES, ["example_id", "chunk_ids", "ranks"]),
        (EXAMPLES, tables.EXAMPLES, EXAMPLE_COLUMNS),
    )
    for full, scored, example in rows:
        if full["chunk_ids"] != scored["chunk_ids"]:
            raise ArtifactError(
                f"{SCORES}: chunks of example {full['example_id']} are not those in {FULL}; run "
                "`dvc repro -f score tokenize`"
            )
        if full["split"] == split:
            yield {**full, **example}, scored


def _asks(
    split: str, top_k_of: dict[str, int], max_tokens: int, chunk_of: dict[str, tables.Row]
) -> tuple[list[Ask], list[Prompt]]:
    base = tokenization.load()
    chunks = {
        chunk_id: views.ContextChunk(**{name: row[name] for name in views.ContextChunk._fields})
        for chunk_id, row in chunk_of.items()
    }
    found = Asks(chunks, top_k_of, max_tokens, tokenization.encoder(base.tokenizer), base.bos_id)
    for example, scored in _rows(split):
        found.add(example, np.asarray(scored["ranks"], dtype=np.int32))
    if not found.asks:
        raise DataError(
            f"{FULL}: no examples in split {split}; choose another eval.split, or give the data questions of this one"
        )
    return found.asks, found.prompts


def _chunks(split: str) -> dict[str, tables.Row]:
    """The chunks of every context of the split."""
    rows = tables.scan(FULL, tables.FULL_VIEWS, ["split", "chunk_ids"])
    wanted = {chunk_id for row in rows if row["split"] == split for chunk_id in row["chunk_ids"]}
    found = {row["chunk_id"]: row for row in tables.scan(CHUNKS, tables.CHUNKS) if row["chunk_id"] in wanted}
    if missing := wanted - found.keys():
        raise ArtifactError(f"{CHUNKS}: has no chunk {min(missing)}, which {FULL} names; run `dvc repro tokenize`")
    return found


def _row(
    ask: Ask, method: str, prediction: str, log_probs: list[float], prompt: Prompt, chunk_of: dict[str, tables.Row]
) -> tables.Row:
    given = [chunk_of[chunk_id] for chunk_id in ask.chunk_ids]
    distractors = evaluation.distractors(given, ask.example["gold_document_ids"])
    return {
        **{name: ask.example[name] for name in COPIED},
        **evaluation.score(prediction, ask.example, distractors, log_probs),
        "method": method,
        "input": ask.input,
        "prompt_tokens": prompt.num_tokens,
    }


if __name__ == "__main__":
    run(main)
