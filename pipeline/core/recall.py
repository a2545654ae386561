"""How good a retriever is: recall of the gold chunk, answer retention, mean reciprocal rank."""

# Q questions, C chunks of one context, N unique chunks of the collection

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.core import answers
from pipeline.core.retrieval import Bools, CollectionScorer, Context, Floats, Ints

CONTEXT_KS = (1, 3, 5, 10)
COLLECTION_KS = (1, 5, 10, 20)
QUESTIONS_PER_BLOCK = 256  # 256 x 50,000 float32 scores are 51 MB


def best_rank(ranks_C: Ints, flags_C: Bools) -> int | None:
    """The best rank among the flagged chunks; None when none is flagged."""
    return int(ranks_C[flags_C].min()) if flags_C.any() else None


def answer_flags(texts: Iterable[str], references: Sequence[str]) -> Bools:
    """For each chunk: does a reference answer stand in it?"""
    return np.array([any(answers.contains(text, answer) for answer in references) for text in texts], dtype=np.bool_)


class Tally:
    """Sums over examples, and the shares they make."""

    def __init__(self) -> None:
        self._num_examples = self._num_gold_known = self._num_chunks = 0
        self._reciprocal_ranks = 0.0
        self._gold_within: Counter[int] = Counter()
        self._answer_within: Counter[int] = Counter()

    def add(self, num_chunks: int, gold_rank: int | None, answer_rank: int | None) -> None:
        """Count one example: ranks of its best gold chunk and of its best chunk that holds an answer."""
        self._num_examples += 1
        self._num_chunks += num_chunks
        for k in CONTEXT_KS:
            self._gold_within[k] += gold_rank is not None and gold_rank < k
            self._answer_within[k] += answer_rank is not None and answer_rank < k
        if gold_rank is not None:
            self._num_gold_known += 1
            self._reciprocal_ranks += 1 / (1 + gold_rank)

    def shares(self) -> dict[str, Any]:
        """recall and mrr over the examples whose gold chunk is known (None without one), the rest over all."""
        known, total = self._num_gold_known, self._num_examples
        return {
            "num_examples": total,
            "num_gold_known": known,
            "mean_chunks": self._num_chunks / total,
            "recall": {str(k): self._gold_within[k] / known if known else None for k in CONTEXT_KS},
            "mrr": self._reciprocal_ranks / known if known else None,
            "answer_retention": {str(k): self._answer_within[k] / total for k in CONTEXT_KS},
        }


class Quality:
    """Tallies of the contexts of a run, by split and by number of documents."""

    def __init__(self) -> None:
        self.gold_rows: defaultdict[str, set[int]] = defaultdict(set)
        """question -> its gold chunks among the unique chunks."""
        self._whole: defaultdict[str, Tally] = defaultdict(Tally)
        self._parts: defaultdict[str, defaultdict[int, Tally]] = defaultdict(lambda: defaultdict(Tally))

    def add(self, split: str, num_documents: int, context: Context, ranks_C: Ints, answer_C: Bools) -> None:
        """Count one example; `answer_C`: chunks that hold an answer."""
        self.gold_rows[context.question].update(context.rows_C[context.gold_C].tolist())
        gold_rank, answer_rank = best_rank(ranks_C, context.gold_C), best_rank(ranks_C, answer_C)
        for tally in (self._whole[split], self._parts[split][num_documents]):
            tally.add(len(ranks_C), gold_rank, answer_rank)

    def splits(self) -> dict[str, Any]:
        """split -> {all: shares, by_num_documents: {number: shares}}."""
        return {
            split: {
                "all": whole.shares(),
                "by_num_documents": {str(n): tally.shares() for n, tally in sorted(self._parts[split].items())},
            }
            for split, whole in self._whole.items()
        }


def collection_rank(scores_N: Floats, gold_rows: Iterable[int]) -> int:
    """Rank from 0 of the best gold chunk in the whole collection; equal scores rank in the order of the collection."""
    rows = np.fromiter(gold_rows, dtype=np.int64)
    best = rows[scores_N[rows] == scores_N[rows].max()].min()
    ahead = scores_N > scores_N[best]
    ahead[:best] |= scores_N[:best] == scores_N[best]
    return int(ahead.sum())


def in_collection(scorer: CollectionScorer, num_unique_chunks: int, gold: Mapping[str, set[int]]) -> dict[str, Any]:
    """Recall of the gold chunk when every question ranks all unique chunks. `gold`: question -> its gold rows."""
    asked = [question for question, rows in gold.items() if rows]
    within: Counter[int] = Counter()
    for start in range(0, len(asked), QUESTIONS_PER_BLOCK):
        block = asked[start : start + QUESTIONS_PER_BLOCK]
        for question, scores_N in zip(block, scorer.collection_scores(block), strict=True):
            rank = collection_rank(scores_N, gold[question])
            within.update(k for k in COLLECTION_KS if rank < k)
    return {
        "num_questions": len(asked),
        "num_chunks": num_unique_chunks,
        "recall": {str(k): within[k] / len(asked) if asked else None for k in COLLECTION_KS},
    }
