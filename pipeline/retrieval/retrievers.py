"""Scores of a context's chunks for its question: one signature for encoders, BM25 and the controls. No torch here."""

# Q questions, C chunks of one context, N unique chunks of the collection, D embedding dimensions, V distinct words

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from pipeline.runtime.errors import DataError, NumericError

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]

_WORD = re.compile(r"\w+")


class Context(NamedTuple):
    """A question and the chunks it is asked over, in context order."""

    example_id: str
    question: str
    rows_C: Ints
    """Place of each chunk among the unique chunks of the collection."""
    gold_C: Bools


class Scorer(Protocol):
    """What every retriever can do. It is built for a collection of unique chunks and a set of questions."""

    def scores(self, context: Context) -> Floats:
        """scores_C: one per chunk of the context, the higher the better."""
        ...


class CollectionScorer(Scorer, Protocol):
    """A retriever that can also rank the whole collection."""

    def collection_scores(self, questions: Sequence[str]) -> Floats:
        """scores_QN: of every unique chunk, for every question."""
        ...


def chunk_text(title: str, text: str, *, with_title: bool) -> str:
    """A chunk as a retriever reads it: `title text`, as Contriever was trained on (generate_passage_embeddings.py of
    facebookresearch/contriever @39fb2201); an empty title leaves the text alone."""
    return f"{title} {text}" if with_title and title else text


def ranks(scores_C: Floats, retriever: str, example_id: str) -> Ints:
    """Ranks from 0, the best; equal scores rank in context order.

    Raises:
        NumericError: a score is NaN or infinite.
    """
    if not np.isfinite(scores_C).all():
        raise NumericError(
            f"retriever {retriever}: example {example_id} got a score that is NaN or infinite; look for a damaged "
            "checkpoint, or run on another device (FOCUS_DEVICE=cpu)"
        )
    ranks_C = np.empty(len(scores_C), dtype=np.int32)
    ranks_C[np.argsort(-scores_C, kind="stable")] = np.arange(len(scores_C), dtype=np.int32)
    return ranks_C


class DenseScorer:
    """Similarity of embeddings: dot product (Contriever) or cosine (MiniLM)."""

    def __init__(
        self, questions: Sequence[str], questions_QD: Floats, chunks_ND: Floats, similarity: Literal["dot", "cosine"]
    ) -> None:
        assert len(questions) == len(questions_QD)
        if similarity == "cosine":
            questions_QD, chunks_ND = _normalised(questions_QD), _normalised(chunks_ND)
        self._row_of = {question: row for row, question in enumerate(questions)}
        self._questions_QD, self._chunks_ND = questions_QD, chunks_ND

    def scores(self, context: Context) -> Floats:
        chunks_CD = self._chunks_ND[context.rows_C].astype(np.float64)
        question_D = self._questions_QD[self._row_of[context.question]].astype(np.float64)
        # Summed in float64 and rounded once, a score depends neither on the number of chunks beside it nor on threads.
        scores_C: Floats = (chunks_CD @ question_D).astype(np.float32)
        return scores_C

    def collection_scores(self, questions: Sequence[str]) -> Floats:
        rows = [self._row_of[question] for question in questions]
        scores_QN: Floats = self._questions_QD[rows] @ self._chunks_ND.T
        return scores_QN


def _normalised(vectors_ND: Floats) -> Floats:
    normalised_ND: Floats = vectors_ND / np.maximum(np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12)
    return normalised_ND


class Bm25Scorer:
    """Okapi BM25 over the collection, with the idf that is never negative: ln(1 + (N - df + 0.5) / (df + 0.5)).

    Words are lower-cased runs of \\w. The term weight is tf / (tf + k1 (1 - b + b len / mean len)), without the
    constant factor k1 + 1: Lucene's form, which ranks the same.
    """

    def __init__(self, texts: Sequence[str], k1: float, b: float) -> None:
        # Ids by first appearance: those that bm25s gives itself follow Python's randomised string hash.
        self._id_of: dict[str, int] = {}
        ids = [[self._id_of.setdefault(word, len(self._id_of)) for word in _words(text)] for text in texts]
        shape = (len(texts), len(self._id_of))
        if not self._id_of:
            self._weights_NV = sparse.csr_array(shape)
            return
        index = bm25s.BM25(k1=k1, b=b, method="lucene", dtype="float64")
        index.index((ids, self._id_of), create_empty_token=False, show_progress=False)
        found = index.scores
        self._weights_NV = sparse.csc_array((found["data"], found["indices"], found["indptr"]), shape).tocsr()

    def scores(self, context: Context) -> Floats:
        counts_QV = self._counts([context.question])
        scores_CQ = self._weights_NV[context.rows_C] @ counts_QV.T
        return scores_CQ.toarray()[:, 0].astype(np.float32)

    def collection_scores(self, questions: Sequence[str]) -> Floats:
        return (self._counts(questions) @ self._weights_NV.T).toarray().astype(np.float32)

    def _counts(self, questions: Sequence[str]) -> "sparse.csr_array[np.float64]":
        """counts_QV: how often each word of the collection stands in each question."""
        entries = [
            (row, self._id_of[word], float(count))
            for row, question in enumerate(questions)
            for word, count in Counter(_words(question)).items()
            if word in self._id_of
        ]
        rows, columns, counts = zip(*entries, strict=True) if entries else ((), (), ())
        shape = (len(questions), len(self._id_of))
        return sparse.csr_array((np.array(counts, dtype=np.float64), (rows, columns)), shape=shape)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


class FusionScorer:
    """Reciprocal rank fusion (Cormack et al., 2009): the sum over retrievers of 1 / (rank_constant + rank).

    A rank is one more than the number of chunks that score higher, so equal scores count the same: the many chunks in
    which BM25 finds no word of the question gain nothing from their place in the context.
    """

    def __init__(self, scorers: Sequence[CollectionScorer], rank_constant: float) -> None:
        self._scorers, self._rank_constant = scorers, rank_constant

    def scores(self, context: Context) -> Floats:
        """Ranks are those among the chunks of the context."""
        return self._fused([scorer.scores(context) for scorer in self._scorers])

    def collection_scores(self, questions: Sequence[str]) -> Floats:
        """Ranks are those among all unique chunks."""
        return self._fused([scorer.collection_scores(questions) for scorer in self._scorers])

    def _fused(self, found: Sequence[Floats]) -> Floats:
        """`found`: scores of each retriever, chunks last. What is no finite number makes its question's scores NaN."""
        fused = np.zeros_like(found[0], dtype=np.float64)
        for scores in found:
            finite = np.where(np.isfinite(scores), scores, np.nan)
            fused += 1 / (self._rank_constant + stats.rankdata(-finite, method="min", axis=-1))
        return fused.astype(np.float32)


class ControlScorer:
    """What retrieval could do at best (`oracle`), at worst (`worst`) and by chance (`random`)."""

    def __init__(self, kind: Literal["oracle", "worst", "random"], seed: int) -> None:
        self._kind, self._seed = kind, seed

    def scores(self, context: Context) -> Floats:
        """Random scores hang on seed, example and place in the context alone, not on the order of the examples.

        Raises:
            DataError: oracle and worst, when no gold chunk is known.
        """
        if self._kind == "random":
            draws = [
                hashlib.sha256(f"{self._seed}\n{place}\n{context.example_id}".encode()).digest()
                for place in range(len(context.rows_C))
            ]
            # 24 bits: every draw is an exact float32.
            return np.array([int.from_bytes(draw[:3]) / 2**24 for draw in draws], dtype=np.float32)
        if not context.gold_C.any():
            raise DataError(
                f"retriever {self._kind}: example {context.example_id} has no known gold chunk; give its question "
                "evidence or gold documents, leave out the questions of split unlabelled (bios: "
                "data.unlabelled_questions: 0), or choose a retriever that needs no gold (minilm, bm25, random)"
            )
        gold_C = context.gold_C if self._kind == "oracle" else ~context.gold_C
        return gold_C.astype(np.float32)
