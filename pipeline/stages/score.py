"""Stage score: one score per example and chunk of its context, offline, for every split.

reports/retrieval.json
    retriever     its settings, and retrievers.Built.identity
    num_*         examples, distinct questions, chunks, unique chunks (distinct texts), scores
    encoder       retrievers.Built.encoder; one encode per score would be num_scores / num_unique_chunks
    splits        <split>.all and <split>.by_num_documents.<n>: recall.Tally.shares
    collection    recall.in_collection; null for the controls and above recall.MAX_COLLECTION unique chunks
"""

import time
from pathlib import Path

from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.retrieval import build, index, recall
from pipeline.runtime import config
from pipeline.runtime.errors import DataError, run
from pipeline.runtime.settings import ScoreStage

CHUNKS, EXAMPLES, SCORES = Path("data/chunks.parquet"), Path("data/examples.parquet"), Path("data/scores.parquet")
REPORT = Path("reports/retrieval.json")


def main() -> None:
    started = time.perf_counter()
    settings = config.load(ScoreStage)
    retriever = settings.retriever
    known = index.Collection(tables.scan(CHUNKS, tables.CHUNKS), with_title=getattr(retriever, "title", True))
    questions = list(dict.fromkeys(row["question"] for row in tables.scan(EXAMPLES, tables.EXAMPLES, ["question"])))
    if not known.texts or not questions:
        raise DataError(f"{EXAMPLES if known.texts else CHUNKS}: no rows, so there is nothing to score; check use.data")
    built = build.build(retriever, known.texts, questions, settings.score.engine)
    quality = recall.Quality()
    num_scores = 0
    with tables.Writer(SCORES, tables.SCORES) as writer:
        for example in tqdm(tables.scan(EXAMPLES, tables.EXAMPLES), desc="score", unit=" examples", disable=None):
            ranked = recall.rank(example, known, built.scorer, retriever.kind)
            quality.add(example, ranked)
            writer.write(
                {
                    "example_id": example["example_id"],
                    "chunk_ids": [chunk.chunk_id for chunk in ranked.chunks],
                    "scores": ranked.scores_C.tolist(),
                    "ranks": ranked.ranks_C.tolist(),
                    "gold": ranked.context.gold_C.tolist(),
                }
            )
            num_scores += len(ranked.chunks)
    splits = quality.splits()
    report = {
        "retriever": {**retriever.model_dump(), **built.identity},
        "num_examples": writer.num_rows,
        "num_questions": len(questions),
        "num_chunks": known.num_chunks,
        "num_unique_chunks": len(known.texts),
        "num_scores": num_scores,
        "encoder": built.encoder,
        "splits": splits,
        "collection": recall.in_collection(built.scorer, len(known.texts), quality.gold_rows()),
    }
    files.write_json(REPORT, report)
    gold = ", ".join(f"{split} {_percent(found['all']['recall']['1'])}" for split, found in splits.items())
    print(
        f"score: {writer.num_rows:,} examples, {num_scores:,} scores of {len(known.texts):,} unique chunks by "
        f"{retriever.kind}{built.words} in {time.perf_counter() - started:.1f} s; gold chunk on top: {gold}"
    )


def _percent(share: float | None) -> str:
    return "unknown" if share is None else f"{share:.1%}"


if __name__ == "__main__":
    run(main)
