"""Stage validate: how well each retriever finds the evidence, at each size of chunk, before anything is trained.

It reads what `prepare` wrote and cuts the documents itself, so every size is tried whatever chunk.words is. Only the
documents of the chosen examples count: the statistics of BM25 and the whole collection are theirs.

reports/validation.json
    num_examples, num_documents    chosen
    measured_as   chunk_words -> the size whose rows hold for it: sizes that cut all documents alike are measured once
    rows          one for each size measured, retriever and split
        retriever           name of its bundle
        chunk_words, split
        num_examples, num_gold_known, mean_chunks, recall, all_gold, mrr, answer_retention    recall.Tally.shares
        recall_interval     k -> [low, high], 95 % bootstrap over questions; null where no gold chunk is known
        truncated_chunks    share of the unique chunks (of all splits) that the encoder cuts; null without an encoder
        collection          recall.in_collection of the split's questions; null for the controls and large collections
"""

import hashlib
import time
from collections.abc import Iterator
from heapq import nsmallest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.evaluation import bootstrap
from pipeline.retrieval import build, chunking, index, recall
from pipeline.runtime import config
from pipeline.runtime.errors import DataError, run
from pipeline.runtime.settings import Retriever, ValidateStage

DOCUMENTS, EXAMPLES = Path("data/documents.parquet"), Path("data/examples.parquet")
REPORT = Path("reports/validation.json")
SPLITS = ("train", "dev", "test")
SHOWN_K = 5
RESAMPLES = 1000


def main() -> None:
    started = time.perf_counter()
    validation = config.load(ValidateStage).validation
    named = config.load_retrievers(list(dict.fromkeys(validation.retrievers)))
    examples = _examples(validation.max_examples)
    documents = _documents({name for example in examples for name in example["document_ids"]})
    if not examples or not documents:
        raise DataError(f"{DOCUMENTS if examples else EXAMPLES}: no rows, so there is nothing to rank; check use.data")
    measured_as: dict[int, int] = {}
    cuts: dict[int, list[tables.Row]] = {}
    rows: list[dict[str, Any]] = []
    for words in sorted(set(validation.chunk_words)):
        cut = [chunk for document in documents for chunk in chunking.rows(document, words)]
        measured_as[words] = next((size for size, known in cuts.items() if known == cut), words)
        if measured_as[words] == words:
            cuts[words] = cut
            for name, retriever in named.items():
                rows += ({"chunk_words": words, **row} for row in _measured(name, retriever, cut, examples))
    report = {
        "num_examples": len(examples),
        "num_documents": len(documents),
        "measured_as": {str(words): size for words, size in measured_as.items()},
        "rows": rows,
    }
    files.write_json(REPORT, report)
    print(_summary_line(rows, len(examples), measured_as, time.perf_counter() - started))


def _examples(max_examples: int | None) -> list[tables.Row]:
    """Of each split those whose ids have the smallest digests, in the order of the table."""
    ids: dict[str, list[str]] = {}
    for row in tables.scan(EXAMPLES, tables.EXAMPLES, ["example_id", "split"]):
        if row["split"] in SPLITS:
            ids.setdefault(row["split"], []).append(row["example_id"])
    chosen = {name for split in ids.values() for name in nsmallest(max_examples or len(split), split, key=_digest)}
    return [row for row in tables.scan(EXAMPLES, tables.EXAMPLES) if row["example_id"] in chosen]


def _digest(example_id: str) -> bytes:
    return hashlib.sha256(example_id.encode()).digest()


def _documents(names: set[str]) -> list[tables.Row]:
    return [row for row in tables.scan(DOCUMENTS, tables.DOCUMENTS) if row["document_id"] in names]


def _measured(
    name: str, retriever: Retriever, chunks: list[tables.Row], examples: list[tables.Row]
) -> Iterator[dict[str, Any]]:
    """One row of the report for each split."""
    known = index.Collection(chunks, with_title=getattr(retriever, "title", True))
    built = build.build(retriever, known.texts, list(dict.fromkeys(example["question"] for example in examples)))
    quality = recall.Quality()
    for example in tqdm(examples, desc=f"validate {name}", unit=" examples", disable=None):
        quality.add(example, recall.rank(example, known, built.scorer, name))
    for split in sorted(quality.of_split, key=SPLITS.index):
        tally = quality.of_split[split]
        yield {
            "retriever": name,
            "split": split,
            **tally.shares(),
            "recall_interval": {str(k): _interval(*tally.gold_hits(k)) for k in recall.CONTEXT_KS},
            "truncated_chunks": built.encoder["truncated_chunks"] if built.encoder else None,
            "collection": recall.in_collection(built.scorer, len(known.texts), quality.gold_rows(split)),
        }


def _interval(hits: list[bool], question_ids: list[str]) -> list[float] | None:
    if not hits:
        return None
    found = bootstrap.interval(hits, question_ids, resamples=RESAMPLES, seed=0)
    return [found.low, found.high]


def _summary_line(rows: list[dict[str, Any]], num_examples: int, measured_as: dict[int, int], seconds: float) -> str:
    """What the retrievers reach at the smallest size, on the split that settings are chosen on if there is one."""
    split = next(name for name in ("dev", "train", "test") if any(row["split"] == name for row in rows))
    words = rows[0]["chunk_words"]
    shown = [row for row in rows if (row["split"], row["chunk_words"]) == (split, words)]
    reached = ", ".join(f"{row['retriever']} {_percent(row['recall'][str(SHOWN_K)])}" for row in shown)
    sizes = ", ".join(str(size) if size == same else f"{size} (as {same})" for size, same in measured_as.items())
    return (
        f"validate: {num_examples:,} examples, {len(shown)} retrievers, chunks of {sizes} words in {seconds:.1f} s; "
        f"gold chunk among the best {SHOWN_K} at {words} words, {split}: {reached}"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run(main)
