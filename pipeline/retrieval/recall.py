"""How good a retriever is: recall of the gold chunk, answer retention, mean reciprocal rank."""

# Q questions, C chunks of one context, N unique chunks of the collection

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from pipeline.common.text import has_answer
from pipeline.retrieval import index, retrievers
from pipeline.retrieval.index import Chunk, Collection
from pipeline.retrieval.retrievers import Bools, CollectionScorer, Context, ControlScorer, Floats, Ints, Scorer

CONTEXT_KS = (1, 3, 5, 7, 10)
COLLECTION_KS = (1, 5, 10, 20)
MAX_COLLECTION = 50_000  # unique chunks; to rank more of them for every question takes longer than all the rest
QUESTIONS_PER_BLOCK = 256  # 256 x 50,000 float32 scores are 51 MB


class Ranked(NamedTuple):
    """The chunks of an example's context, scored and ranked."""

    chunks: list[Chunk]
    context: Context
    scores_C: Floats
    ranks_C: Ints
    answer_C: Bools
    """Chunks in which a reference answer stands."""


def rank(example: Mapping[str, Any], known: Collection, scorer: Scorer, retriever: str) -> Ranked:
    """Score one row of tables.EXAMPLES; `retriever` is the name for messages.

    Raises:
        ArtifactError: a document of the context has no chunks.
        DataError, NumericError: as the scorer and retrieval.ranks do.
    """
    chunks = known.chunks(example)
    context = index.context(example, chunks)
    scores_C = scorer.scores(context)
    ranks_C = retrievers.ranks(scores_C, retriever, context.example_id)
    answer_C = answer_flags([chunk.text for chunk in chunks], example["answers"])
    return Ranked(chunks, context, scores_C, ranks_C, answer_C)


def best_rank(ranks_C: Ints, flags_C: Bools) -> int | None:
    """The best rank among the flagged chunks; None when none is flagged."""
    return int(ranks_C[flags_C].min()) if flags_C.any() else None


def all_gold_rank(ranked: Ranked) -> int | None:
    """The rank by which every gold document has shown a gold chunk; None when no gold chunk is known."""
    best_of: dict[str, int] = {}
    for place in np.flatnonzero(ranked.context.gold_C):
        document_id, found = ranked.chunks[place].document_id, int(ranked.ranks_C[place])
        best_of[document_id] = min(found, best_of.get(document_id, found))
    return max(best_of.values(), default=None)


def answer_flags(texts: Iterable[str], references: Sequence[str]) -> Bools:
    """For each chunk: does a reference answer stand in it?"""
    return np.array([any(has_answer(text, answer) for answer in references) for text in texts], dtype=np.bool_)


class Tally:
    """Ranks of some examples, and the shares they make."""

    def __init__(self) -> None:
        self._num_examples = self._num_answered = self._num_chunks = 0
        self._reciprocal_ranks = 0.0
        self._all_gold_within: Counter[int] = Counter()
        self._answer_within: Counter[int] = Counter()
        self._gold_ranks: list[int] = []
        self._question_ids: list[str] = []

    def add(self, question_id: str, ranked: Ranked, has_answer: bool = True) -> None:
        """Count one example; an unlabelled one has no answer to look for."""
        gold_rank = best_rank(ranked.ranks_C, ranked.context.gold_C)
        last_rank, answer_rank = all_gold_rank(ranked), best_rank(ranked.ranks_C, ranked.answer_C)
        self._num_examples += 1
        self._num_answered += has_answer
        self._num_chunks += len(ranked.chunks)
        for k in CONTEXT_KS:
            self._all_gold_within[k] += last_rank is not None and last_rank < k
            self._answer_within[k] += answer_rank is not None and answer_rank < k
        if gold_rank is not None:
            self._gold_ranks.append(gold_rank)
            self._question_ids.append(question_id)
            self._reciprocal_ranks += 1 / (1 + gold_rank)

    def gold_hits(self, k: int) -> tuple[list[bool], list[str]]:
        """Of the examples whose gold chunk is known: is one among the best k, and the question it was asked by."""
        return [found < k for found in self._gold_ranks], self._question_ids

    def shares(self) -> dict[str, Any]:
        """recall (a gold chunk of the best k), all_gold (one of every gold document) and mrr over the examples whose
        gold chunk is known, answer_retention over those that have an answer, None without one; the rest over all."""
        known, total, answered = len(self._gold_ranks), self._num_examples, self._num_answered
        return {
            "num_examples": total,
            "num_gold_known": known,
            "mean_chunks": self._num_chunks / total,
            "recall": {str(k): sum(self.gold_hits(k)[0]) / known if known else None for k in CONTEXT_KS},
            "all_gold": {str(k): self._all_gold_within[k] / known if known else None for k in CONTEXT_KS},
            "mrr": self._reciprocal_ranks / known if known else None,
            "answer_retention": {str(k): self._answer_within[k] / answered if answered else None for k in CONTEXT_KS},
        }


class Quality:
    """Tallies of the contexts of a run, by split and by number of documents."""

    def __init__(self) -> None:
        self.of_split: defaultdict[str, Tally] = defaultdict(Tally)
        self._parts: defaultdict[str, defaultdict[int, Tally]] = defaultdict(lambda: defaultdict(Tally))
        self._gold_rows: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def add(self, example: Mapping[str, Any], ranked: Ranked) -> None:
        """Count one row of tables.EXAMPLES."""
        split, context = example["split"], ranked.context
        self._gold_rows[split, context.question].update(context.rows_C[context.gold_C].tolist())
        for tally in (self.of_split[split], self._parts[split][len(example["document_ids"])]):
            tally.add(example["question_id"], ranked, bool(example["answers"]))

    def gold_rows(self, split: str | None = None) -> dict[str, set[int]]:
        """question -> its gold chunks among the unique chunks, in one split or in all."""
        found: defaultdict[str, set[int]] = defaultdict(set)
        for (where, question), rows in self._gold_rows.items():
            if split in (None, where):
                found[question] |= rows
        return dict(found)

    def splits(self) -> dict[str, Any]:
        """split -> {all: shares, by_num_documents: {number: shares}}."""
        return {
            split: {
                "all": whole.shares(),
                "by_num_documents": {str(n): tally.shares() for n, tally in sorted(self._parts[split].items())},
            }
            for split, whole in self.of_split.items()
        }


def collection_rank(scores_N: Floats, gold_rows: Iterable[int]) -> int:
    """Rank from 0 of the best gold chunk in the whole collection; equal scores rank in the order of the collection."""
    rows = np.fromiter(gold_rows, dtype=np.int64)
    best = rows[scores_N[rows] == scores_N[rows].max()].min()
    ahead = scores_N > scores_N[best]
    ahead[:best] |= scores_N[:best] == scores_N[best]
    return int(ahead.sum())


def in_collection(
    scorer: CollectionScorer | ControlScorer, num_unique_chunks: int, gold: Mapping[str, set[int]]
) -> dict[str, Any] | None:
    """Recall of the gold chunk when every question ranks all unique chunks. `gold`: question -> its gold rows.

    None for the controls, which rank contexts only, and above MAX_COLLECTION unique chunks.
    """
    if isinstance(scorer, ControlScorer) or num_unique_chunks > MAX_COLLECTION:
        return None
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
