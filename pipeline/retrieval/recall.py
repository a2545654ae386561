"""Quality of a retriever: recall of the gold chunk, answer retention, mean reciprocal rank.

A context in which every chunk is gold says nothing of a retriever: it is counted, and is in no mean over gold chunks.
Equal scores say that the retriever knows no difference: they rank by chance, which no place in the context or in the
corpus improves, and contexts in which all scores are equal are counted too.
"""

# C candidate chunks of one question, N unique chunks of the corpus

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipeline.common.tables import Row
from pipeline.common.text import has_answer
from pipeline.retrieval import index, retrievers

CONTEXT_KS = (1, 3, 5, 7, 10)
CORPUS_KS = (1, 5, 10, 20)
MAX_CORPUS = 50_000  # unique chunks; to rank more of them for every question takes longer than all the rest
QUESTIONS_PER_BLOCK = 256  # 256 x 50,000 float32 scores are 51 MB

RANKS: dict[str, Any] = {
    "split": pl.String,
    "question_id": pl.String,
    "question": pl.String,
    "num_documents": pl.Int32,
    "num_chunks": pl.Int32,
    "has_answers": pl.Boolean,  # false: the example is unlabelled
    "only_gold": pl.Boolean,  # every chunk is gold
    "equal_scores": pl.Boolean,  # of all chunks, and there are several
    "gold_rank": pl.Int32,  # the best rank, from 0, of a gold chunk; null: no gold chunk is known
    "all_gold_rank": pl.Int32,  # the rank by which every gold document has shown a gold chunk
    "answer_rank": pl.Int32,  # the best rank of a chunk that holds a reference answer; null: none does
    "gold_rows": pl.List(pl.Int32),  # the gold chunks among the unique chunks
}
"""Columns of the frame of ranks, which has one row per example."""


def rank(example: Row, chunks: index.ChunkIndex, scorer: retrievers.Scorer, retriever: str) -> tuple[Row, Row]:
    """Score and rank the context of one row of tables.EXAMPLES: a row of tables.SCORES, a row of the frame of ranks.

    Messages name the `retriever`.

    Raises:
        ArtifactError: a document of the context has no chunks.
        DataError, NumericError: from the scorer and from retrievers.ranks.
    """
    found = chunks.chunks(example)
    candidates = index.candidates(example, found)
    gold_C = candidates.gold_C
    scores_C = scorer.scores(candidates)
    chunk_ids = [chunk.chunk_id for chunk in found]
    ranks_C = retrievers.ranks(scores_C, retriever, candidates.example_id, chunk_ids)
    answer_C = np.array([any(has_answer(chunk.text, answer) for answer in example["answers"]) for chunk in found])
    # From the worst rank to the best, so that each document keeps its best.
    best_of = {found[place].document_id: int(ranks_C[place]) for place in np.argsort(-ranks_C) if gold_C[place]}
    scores = {
        "example_id": candidates.example_id,
        "chunk_ids": chunk_ids,
        "scores": scores_C.tolist(),
        "ranks": ranks_C.tolist(),
        "gold": gold_C.tolist(),
    }
    ranks = {
        "split": example["split"],
        "question_id": example["question_id"],
        "question": candidates.question,
        "num_documents": len(example["document_ids"]),
        "num_chunks": len(found),
        "has_answers": bool(example["answers"]),
        "only_gold": bool(gold_C.all()),
        "equal_scores": equal_scores(scores_C),
        "gold_rank": best_rank(ranks_C, gold_C),
        "all_gold_rank": max(best_of.values(), default=None),
        "answer_rank": best_rank(ranks_C, answer_C),
        "gold_rows": candidates.rows_C[gold_C].tolist(),
    }
    return scores, ranks


def equal_scores(scores_C: retrievers.ChunkScores) -> bool:
    """Return whether the scores of several chunks are all equal, so that the retriever prefers none of them."""
    return len(scores_C) > 1 and bool((scores_C == scores_C[0]).all())


def best_rank(ranks_C: NDArray[np.int32], flags_C: NDArray[np.bool_]) -> int | None:
    """Return the best rank among the flagged chunks; None when none is flagged."""
    return int(ranks_C[flags_C].min()) if flags_C.any() else None


def measured(ranks: pl.DataFrame) -> pl.DataFrame:
    """The rows of a frame of ranks that say how well the retriever finds gold: it is known, and not every chunk is."""
    return ranks.filter(pl.col("gold_rank").is_not_null() & ~pl.col("only_gold"))


def metrics(ranks: pl.DataFrame) -> dict[str, Any]:
    """Average a frame of ranks.

    recall (a gold chunk is among the best k), all_gold (a gold chunk of every gold document is) and mrr are means over
    the examples that are `measured`, answer_retention over those with answers, mean_chunks over all. A mean over no
    examples is None. Of the examples with a known gold chunk, num_only_gold have no other chunk and are not measured;
    of those measured, num_equal_scores rank all chunks by chance.
    """
    known, answered = measured(ranks), ranks.filter("has_answers")
    return {
        "num_examples": len(ranks),
        "num_gold_known": ranks["gold_rank"].count(),
        "num_only_gold": ranks["only_gold"].sum(),
        "num_equal_scores": known["equal_scores"].sum(),
        "mean_chunks": ranks["num_chunks"].mean(),
        "recall": _shares_within(known["gold_rank"]),
        "all_gold": _shares_within(known["all_gold_rank"]),
        "mrr": (1 / (1 + known["gold_rank"])).mean(),
        "answer_retention": _shares_within(answered["answer_rank"]),
    }


def _shares_within(ranks: pl.Series) -> dict[str, Any]:
    """k -> share of the ranks that are among the best k; a null counts as a miss. None without ranks."""
    return {str(k): (ranks < k).fill_null(False).mean() for k in CONTEXT_KS}


def metrics_of_splits(ranks: pl.DataFrame) -> dict[str, Any]:
    """split -> {all: metrics, by_num_documents: {number: metrics}}."""
    return {
        split: {
            "all": metrics(part),
            "by_num_documents": {
                str(number): metrics(same)
                for (number,), same in part.sort("num_documents").group_by("num_documents", maintain_order=True)
            },
        }
        for (split,), part in ranks.group_by("split", maintain_order=True)
    }


def gold_rows(ranks: pl.DataFrame) -> dict[str, set[int]]:
    """question -> its gold chunks among the unique chunks, in all its contexts together."""
    rows: dict[str, set[int]] = {}
    for question, found in ranks.select("question", "gold_rows").iter_rows():
        rows.setdefault(question, set()).update(found)
    return rows


class CorpusRank(NamedTuple):
    """Place of the best gold chunks of a question in the corpus."""

    ahead: int
    """Chunks with a higher score."""
    equal: int
    """Chunks with the same score, the gold ones included."""
    gold: int
    """Gold chunks with that score."""

    def found(self, k: int) -> float:
        """The chance that one of the gold chunks is among the best k, if equal scores rank in any order alike."""
        places, others = max(k - self.ahead, 0), self.equal - self.gold
        return 1.0 - math.comb(others, places) / math.comb(self.equal, places) if places <= others else 1.0


def corpus_rank(scores_N: retrievers.ChunkScores, gold_rows: set[int]) -> CorpusRank:
    """Find the best gold chunks of a question in the corpus."""
    gold = scores_N[np.fromiter(gold_rows, dtype=np.int64)]
    best = gold.max()
    return CorpusRank(int((scores_N > best).sum()), int((scores_N == best).sum()), int((gold == best).sum()))


def in_corpus(scorer: retrievers.Scorer, num_unique_chunks: int, gold: Mapping[str, set[int]]) -> dict[str, Any] | None:
    """Return the recall when every question ranks all unique chunks; `gold` maps a question to its gold rows.

    Questions to which every chunk is gold, or none, are left out. It is None for retrievers that rank contexts only
    (the controls), and above MAX_CORPUS unique chunks.
    """
    if not isinstance(scorer, retrievers.CorpusScorer) or num_unique_chunks > MAX_CORPUS:
        return None
    questions = [question for question, rows in gold.items() if 0 < len(rows) < num_unique_chunks]
    ranks: list[CorpusRank] = []
    for start in range(0, len(questions), QUESTIONS_PER_BLOCK):
        block = questions[start : start + QUESTIONS_PER_BLOCK]
        scores_QN = scorer.corpus_scores(block)
        ranks += [corpus_rank(scores_N, gold[question]) for question, scores_N in zip(block, scores_QN, strict=True)]
    return {
        "num_questions": len(questions),
        "num_chunks": num_unique_chunks,
        "recall": {str(k): pl.Series([rank.found(k) for rank in ranks], dtype=pl.Float64).mean() for k in CORPUS_KS},
    }
