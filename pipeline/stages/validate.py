"""Stage validate: measure how well each retriever finds the evidence, at each size of chunk, before any training.

It cuts the documents that `prepare` wrote by itself, so that every size is tried whatever chunk.words is. The corpus,
and with it the statistics of BM25, holds only the documents of the chosen examples.

reports/validation.json
    num_examples, num_documents    chosen
    measured_as   chunk_words -> the size whose rows hold for it: sizes that cut all documents alike are measured once
    rows          one for each size measured, retriever and split
        retriever           name of its bundle
        chunk_words, split
        num_examples, num_gold_known, num_only_gold, num_equal_scores, mean_chunks, recall, all_gold, mrr,
        answer_retention    recall.metrics
        recall_interval     k -> [low, high], 95 % bootstrap over questions; null where no example is measured
        truncated_chunks    share of the unique chunks (of all splits) that the encoder cuts; null without an encoder
        truncated_questions    number of distinct questions (of all splits) that it cuts; null likewise
        collection          recall.in_corpus of the split's questions; null for the controls and a large corpus
"""

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.common.chunks import of_rows
from pipeline.common.text import percent
from pipeline.evaluation import bootstrap
from pipeline.retrieval import build, chunking, recall
from pipeline.retrieval.index import ChunkIndex
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.runtime.settings import RetrieverSettings

REPORT = Path("reports/validation.json")
SPLITS = ("train", "dev", "test")
SHOWN_K = 5
RESAMPLES = 1000


def main() -> None:
    started = time.perf_counter()
    validation = config.load("validate").validation
    retrievers = config.load_retrievers(list(dict.fromkeys(validation.retrievers)))
    tables.require_together(tables.DOCUMENTS, tables.EXAMPLES)
    examples = _examples(validation.max_examples)
    wanted = {document_id for example in examples for document_id in example["document_ids"]}
    documents = [row for row in tables.scan(tables.DOCUMENTS) if row["document_id"] in wanted]
    if not examples or not documents:
        raise DataError(
            f"{tables.DOCUMENTS if examples else tables.EXAMPLES}: no rows, so there is nothing to rank; check use.data"
        )
    measured_as: dict[int, int] = {}
    chunks_of_size: dict[int, list[tables.Row]] = {}
    rows: list[dict[str, Any]] = []
    for words in sorted(set(validation.chunk_words)):
        chunks = [chunk for document in documents for chunk in chunking.rows(document, words)]
        measured_as[words] = next((size for size, known in chunks_of_size.items() if known == chunks), words)
        if measured_as[words] == words:
            chunks_of_size[words] = chunks
            for name, retriever in retrievers.items():
                rows += ({"chunk_words": words, **row} for row in _measured(name, retriever, chunks, examples))
    report = {
        "num_examples": len(examples),
        "num_documents": len(documents),
        "measured_as": {str(words): size for words, size in measured_as.items()},
        "rows": rows,
    }
    files.write_json(REPORT, report)
    print(_summary_line(rows, len(examples), measured_as, time.perf_counter() - started))


def _examples(max_examples: int | None) -> list[tables.Row]:
    """From each split, return the examples whose ids have the smallest digests, in the order of the table."""
    ids = tables.frame(tables.EXAMPLES, ["example_id", "split"]).filter(pl.col("split").is_in(SPLITS))
    digests = pl.Series("digest", [hashlib.sha256(name.encode()).digest() for name in ids["example_id"]], pl.Binary)
    by_digest = ids.with_columns(digests).sort("digest")
    chosen = set(by_digest.group_by("split").head(max_examples or len(ids))["example_id"])
    return [row for row in tables.scan(tables.EXAMPLES) if row["example_id"] in chosen]


def _measured(
    name: str, retriever: RetrieverSettings, rows: list[tables.Row], examples: list[tables.Row]
) -> Iterator[dict[str, Any]]:
    """Yield one row of the report for each split; `rows` are those of tables.CHUNKS."""
    index = ChunkIndex(of_rows(rows), with_title=retriever.title)
    built = build.build(retriever, index.texts, list(dict.fromkeys(example["question"] for example in examples)))
    progress = tqdm(examples, desc=f"validate {name}", unit=" examples", disable=None)
    ranks = pl.DataFrame(
        [recall.rank(example, index, built.scorer, name)[1] for example in progress], schema=recall.RANKS
    )
    for split in SPLITS:
        part = ranks.filter(split=split)
        if len(part):
            yield {
                "retriever": name,
                "split": split,
                **recall.metrics(part),
                "recall_interval": {str(k): _interval(part, k) for k in recall.CONTEXT_KS},
                "truncated_chunks": built.encoder["truncated_chunks"] if built.encoder else None,
                "truncated_questions": built.encoder["truncated_questions"] if built.encoder else None,
                "collection": recall.in_corpus(built.scorer, len(index.texts), recall.gold_rows(part)),
            }


def _interval(ranks: pl.DataFrame, k: int) -> list[float] | None:
    known = recall.measured(ranks)
    if not len(known):
        return None
    hits = (known["gold_rank"] < k).cast(pl.Float64).to_numpy()
    found = bootstrap.interval(hits, known["question_id"].to_list(), resamples=RESAMPLES, seed=0)
    return [found.low, found.high]


def _summary_line(rows: list[dict[str, Any]], num_examples: int, measured_as: dict[int, int], seconds: float) -> str:
    """Recall of the retrievers at the smallest size, on the split that settings are chosen on if there is one."""
    split = next(name for name in ("dev", "train", "test") if any(row["split"] == name for row in rows))
    words = rows[0]["chunk_words"]
    shown = [row for row in rows if (row["split"], row["chunk_words"]) == (split, words)]
    reached = ", ".join(f"{row['retriever']} {percent(row['recall'][str(SHOWN_K)])}" for row in shown)
    sizes = ", ".join(str(size) if size == same else f"{size} (as {same})" for size, same in measured_as.items())
    return (
        f"validate: {num_examples:,} examples, {len(shown)} retrievers, chunks of {sizes} words in {seconds:.1f} s; "
        f"gold chunk among the best {SHOWN_K} at {words} words, {split}: {reached}"
    )


if __name__ == "__main__":
    run(main)
