"""A method's answers to the questions of a split, on one process or many, each with its metrics."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline.common import tables
from pipeline.evaluation import answering, score
from pipeline.evaluation.asking import Ask, Asks, Prompt
from pipeline.model import adapters, loading
from pipeline.model.distributed import Processes
from pipeline.runtime.errors import ArtifactError
from pipeline.runtime.sections import Eval, Model
from pipeline.views import full_view, tasks
from pipeline.views import tokenizer as tokenization

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


def answers(
    method: str,
    model: Model,
    settings: Eval,
    split: str,
    top_k_of: Mapping[str, int],
    team: Processes,
    stage: str,
    *,
    longest: bool = False,
) -> list[tables.Row] | None:
    """Rows of tables.PREDICTIONS, example by example; none where the split is empty.

    Each example, or of each question the `longest` alone, is asked over its `full` context, and over as many of its
    best-ranked chunks as `top_k_of` says for each input that it names. With several processes the first one gets the
    rows, the others None.

    Raises:
        ArtifactError: a file is missing or was made from other data.
    """
    card, tokenizer = loading.read_card(), tokenization.load().tokenizer
    if (found := tables.metadata(FULL, tables.FULL_VIEWS).get("tokenizer_sha256")) != card.tokenizer_sha256:
        raise ArtifactError(
            f"{FULL}: made with tokenizer {found}, {loading.BASE} has {card.tokenizer_sha256}; run `dvc repro tokenize`"
        )
    chunk_of = _chunks(split)
    asked = _asks(split, top_k_of, model.max_tokens, chunk_of, longest)
    if not asked.asks:
        return [] if team.first else None
    task = tasks.of(asked.asks[0].example["benchmark"])
    share = answering.shares(asked.prompts, team.num)[team.rank]
    network = adapters.load_method(method, model)
    with tqdm(total=len(share), desc=stage, unit=" prompts", disable=None, mininterval=1) as bar:
        own_answers = answering.answer_all(
            network,
            [asked.prompts[place] for place in share],
            max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
            eos_id=card.eos_id,
            pad_id=card.pad_id,
            banned_ids=[card.mask_id, card.pad_id],
            batch_tokens=settings.batch_tokens,
            progress=bar.update,
        )
    answer_of = team.collect(dict(zip(share, own_answers, strict=True)))
    if not team.first:
        return None
    found_answers: list[answering.Answer] = [answer_of[place] for place in range(len(asked.prompts))]
    texts = [score.answer_text(tokenizer.decode(answer.output_ids), task) for answer in found_answers]
    return [
        _row(ask, method, texts[ask.prompt], found_answers[ask.prompt].log_probs, asked.prompts[ask.prompt], chunk_of)
        for ask in asked.asks
    ]


def _rows(split: str, scored: bool, longest: bool) -> Iterator[tuple[tables.Row, list[int]]]:
    """Full view, with the example's own columns, and ranks of its chunks (none where not `scored`)."""
    most_of: dict[str, int] = {}  # documents of a question's longest context
    if longest:
        for row in tables.scan(FULL, tables.FULL_VIEWS, ["split", "question_id", "num_documents"]):
            if row["split"] == split:
                most_of[row["question_id"]] = max(row["num_documents"], most_of.get(row["question_id"], 0))
    sources = [(FULL, tables.FULL_VIEWS, None), (EXAMPLES, tables.EXAMPLES, EXAMPLE_COLUMNS)]
    if scored:
        sources.append((SCORES, tables.SCORES, ["example_id", "chunk_ids", "ranks"]))
    for full, example, *scores in tables.side_by_side(*sources):
        if scores and full["chunk_ids"] != scores[0]["chunk_ids"]:
            raise ArtifactError(
                f"{SCORES}: chunks of example {full['example_id']} are not those in {FULL}; run "
                "`dvc repro -f score tokenize`"
            )
        if full["split"] == split and full["num_documents"] >= most_of.get(full["question_id"], 0):
            yield {**full, **example}, scores[0]["ranks"] if scores else []


def _asks(
    split: str, top_k_of: Mapping[str, int], max_tokens: int, chunk_of: dict[str, tables.Row], longest: bool
) -> Asks:
    base = tokenization.load()
    chunks = {
        chunk_id: full_view.ContextChunk(**{name: row[name] for name in full_view.ContextChunk._fields})
        for chunk_id, row in chunk_of.items()
    }
    found = Asks(chunks, top_k_of, max_tokens, tokenization.encoder(base.tokenizer), base.bos_id)
    for example, ranks in _rows(split, bool(top_k_of), longest):
        found.add(example, np.asarray(ranks, dtype=np.int32))
    return found


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
    distractors = score.distractors(given, ask.example["gold_document_ids"])
    return {
        **{name: ask.example[name] for name in COPIED},
        **score.score(prediction, ask.example, distractors, log_probs),
        "method": method,
        "input": ask.input,
        "prompt_tokens": prompt.num_tokens,
    }
