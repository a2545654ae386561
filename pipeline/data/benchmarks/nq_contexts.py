"""Contexts for questions that come without one: a gold passage and clean distractors out of a collection, by BM25.

Gold is found by distant supervision, as DPR does where a data set has no passages (Karpukhin et al. 2020, arXiv
2004.04906, section 4.2): the best of the first 100 passages that holds an answer, which it may do by chance. This and
the parameters of BM25 are our defaults: we do not know how the paper made its training contexts.
"""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Literal

import numpy as np

from pipeline.common.text import tokens
from pipeline.data.benchmarks.nq_lines import Passage
from pipeline.retrieval import retrievers
from pipeline.runtime.errors import DataError

# Q questions, N passages of the collection

RANKED_FOR_GOLD = 100

GoldPosition = Literal["spread", "first", "middle", "last"]


class Collection:
    """Distinct passages, ranked by BM25 over lower-case words of title and text."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = passages
        self._tokens = [f"{tokens(passage.title)}\n{tokens(passage.text)}" for passage in passages]
        texts = [retrievers.chunk_text(passage.title, passage.text, with_title=True) for passage in passages]
        self._bm25 = retrievers.Bm25Scorer(texts, k1=1.5, b=0.75)

    def scores(self, questions: Sequence[str]) -> retrievers.Scores:
        """scores_QN: of every passage for every question."""
        return self._bm25.corpus_scores(questions)

    def gold(self, references: Sequence[str], scores_N: retrievers.Scores) -> Passage | None:
        """The best of the first passages whose text holds an answer; None: none of them does."""
        wanted = _wanted(references)
        for index in islice(best_first(scores_N, RANKED_FOR_GOLD), RANKED_FOR_GOLD):
            text = self._tokens[index].partition("\n")[2]
            if any(answer in text for answer in wanted):
                return self._passages[index]
        return None

    def distractors(
        self, question: str, references: Sequence[str], gold: Passage, scores_N: retrievers.Scores, count: int
    ) -> list[Passage]:
        """The `count` best passages that hold no answer and are not the gold text again, best first.

        Raises:
            DataError: there are fewer.
        """
        wanted = _wanted(references)
        taken = {tokens(gold.text)}
        chosen: list[Passage] = []
        for index in best_first(scores_N, RANKED_FOR_GOLD):
            if len(chosen) == count:
                break
            text = self._tokens[index].partition("\n")[2]
            if text not in taken and not any(answer in self._tokens[index] for answer in wanted):
                taken.add(text)
                chosen.append(self._passages[index])
        if len(chosen) < count:
            raise DataError(
                f"{question!r} needs {count} distractors, the collection has {len(chosen)} passages without an "
                "answer; lower data.num_documents, or name a larger collection in data.passages"
            )
        return chosen


def best_first(scores_N: retrievers.Scores, num_likely: int) -> Iterator[int]:
    """Places of the scores, best first, equal ones in order; sorts `num_likely` and their ties until more are read."""
    split = max(len(scores_N) - num_likely, 0)
    likely_N = scores_N >= np.partition(scores_N, split)[split] if split else np.ones(len(scores_N), dtype=np.bool_)
    for part_N in (likely_N, ~likely_N):
        places = np.flatnonzero(part_N)
        yield from places[np.argsort(-scores_N[places], kind="stable")].tolist()


def position_of_gold(where: GoldPosition, num_documents: int, question: int, seed: int) -> int:
    """Place of the gold passage from 0; `spread` gives any `num_documents` questions in a row each place once."""
    if where == "spread":
        block, turn = divmod(question, num_documents)
        return int(np.random.default_rng([seed, num_documents, block]).permutation(num_documents)[turn])
    return {"first": 0, "middle": (num_documents - 1) // 2, "last": num_documents - 1}[where]


def _wanted(references: Sequence[str]) -> list[str]:
    """Each answer as tokens writes it, without those that have no token and are nowhere."""
    return [found for found in map(tokens, references) if found.strip()]
