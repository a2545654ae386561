"""Stage score: score every chunk of every example's context with the retriever, offline, for all splits.

reports/retrieval.json
    retriever     its settings, and build.Built.identity
    num_*         examples, distinct questions, chunks, unique chunks (distinct texts), scores
    encoder       build.Built.encoder; one encode per score would be num_scores / num_unique_chunks
    splits        <split>.all and <split>.by_num_documents.<n>: recall.metrics
    collection    recall.in_corpus; null for the controls and above recall.MAX_CORPUS unique chunks
"""

import time
from pathlib import Path

import polars as pl
from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.common.text import percent
from pipeline.retrieval import build, recall
from pipeline.retrieval.index import ChunkIndex
from pipeline.runtime import config
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run

REPORT = Path("reports/retrieval.json")


def main() -> None:
    started = time.perf_counter()
    settings = config.load("score")
    retriever = settings.retriever
    chunks = ChunkIndex(tables.scan(tables.CHUNKS), with_title=retriever.title)
    questions = list(dict.fromkeys(row["question"] for row in tables.scan(tables.EXAMPLES, ["question"])))
    if not chunks.texts or not questions:
        empty = tables.EXAMPLES if chunks.texts else tables.CHUNKS
        raise DataError(f"{empty}: no rows, so there is nothing to score; check use.data")
    built = build.build(retriever, chunks.texts, questions, settings.score.engine)
    ranks = []
    with tables.Writer(tables.SCORES) as writer:
        for example in tqdm(tables.scan(tables.EXAMPLES), desc="score", unit=" examples", disable=None):
            scores_row, ranks_row = recall.rank(example, chunks, built.scorer, retriever.kind)
            writer.write(scores_row)
            ranks.append(ranks_row)
    frame = pl.DataFrame(ranks, schema=recall.RANKS)
    splits = recall.metrics_of_splits(frame)
    num_scores = int(frame["num_chunks"].sum())
    report = {
        "retriever": {**retriever.model_dump(), **built.identity},
        "num_examples": len(frame),
        "num_questions": len(questions),
        "num_chunks": chunks.num_chunks,
        "num_unique_chunks": len(chunks.texts),
        "num_scores": num_scores,
        "encoder": built.encoder,
        "splits": splits,
        "collection": recall.in_corpus(built.scorer, len(chunks.texts), recall.gold_rows(frame)),
    }
    files.write_json(REPORT, report)
    gold = ", ".join(f"{split} {percent(found['all']['recall']['1'])}" for split, found in splits.items())
    print(
        f"score: {len(frame):,} examples, {num_scores:,} scores of {len(chunks.texts):,} unique chunks by "
        f"{retriever.kind}{built.summary} in {time.perf_counter() - started:.1f} s; gold chunk on top: {gold}"
    )


if __name__ == "__main__":
    run(main)
