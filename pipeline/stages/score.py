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

from tqdm import tqdm

from pipeline.common import chunks, files, tables
from pipeline.common.text import percent
from pipeline.retrieval import build, recall
from pipeline.retrieval.index import ChunkIndex
from pipeline.runtime import config
from pipeline.runtime.errors import DataError, counted
from pipeline.runtime.main import run

REPORT = Path("reports/retrieval.json")
SOURCES = (tables.CHUNKS, tables.EXAMPLES)


def main() -> None:
    started = time.perf_counter()
    settings = config.load("score")
    retriever = settings.retriever
    tables.require_together(*SOURCES)
    index = ChunkIndex(chunks.read(tables.CHUNKS), with_title=retriever.title)
    questions = list(dict.fromkeys(row["question"] for row in tables.scan(tables.EXAMPLES, ["question"])))
    if not index.texts or not questions:
        empty = tables.EXAMPLES if index.texts else tables.CHUNKS
        raise DataError(f"{empty}: no rows, so there is nothing to score; check use.data")
    built = build.build(retriever, index.texts, questions, settings.score.engine)
    ranks = tables.FrameBuilder(recall.RANKS)
    with tables.writer(tables.SCORES, sources=SOURCES) as writer:
        for example in tqdm(tables.scan(tables.EXAMPLES), desc="score", unit=" examples", disable=None):
            scores_row, ranks_row = recall.rank(example, index, built.scorer, retriever.kind)
            writer.write(scores_row)
            ranks.append(ranks_row)
    frame = ranks.collected()
    splits = recall.metrics_of_splits(frame)
    is_small = len(index.texts) <= recall.MAX_CORPUS
    num_scores = int(frame["num_chunks"].sum())
    report = {
        "retriever": {**retriever.model_dump(), **built.identity},
        "num_examples": len(frame),
        "num_questions": len(questions),
        "num_chunks": index.num_chunks,
        "num_unique_chunks": len(index.texts),
        "num_scores": num_scores,
        "encoder": built.encoder,
        "splits": splits,
        "collection": recall.in_corpus(built.scorer, len(index.texts), recall.gold_rows(frame)) if is_small else None,
    }
    files.write_json(REPORT, report)
    gold = ", ".join(f"{split} {percent(found['all']['recall']['1'])}" for split, found in splits.items())
    of_all = [found["all"] for found in splits.values()]
    apart = " and ".join(
        f"{num:,} {what}"
        for name, what in (("num_only_gold", "have gold chunks alone"), ("num_equal_scores", "rank them by chance"))
        if (num := sum(found[name] for found in of_all))
    )
    print(
        f"score: {counted(len(frame), 'example')}, {counted(num_scores, 'score')} of "
        f"{counted(len(index.texts), 'unique chunk')} by "
        f"{retriever.kind}{built.summary} in {time.perf_counter() - started:.1f} s; gold chunk on top: {gold}"
        + (f"; of the contexts {apart}" if apart else "")
    )


if __name__ == "__main__":
    run(main)
