"""Retrievers: each scores the chunks of a question's context, by one signature. No torch here.

To add a retriever, write a class with the signature of `Scorer`, give it an entry in SCORERS, add its settings class
with a `kind` to pipeline/runtime/settings.py, and a bundle to conf/retriever/.
"""

# Q questions, C candidate chunks of one question, N unique chunks of the corpus, D embedding dimensions, V words

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import bm25s
import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from pipeline.runtime.errors import DataError, NumericError

ChunkScores = NDArray[np.float32]

_WORD = re.compile(r"\w+")


class Candidates(NamedTuple):
    """A question and the chunks to rank for it: those of its context, in context order."""

    example_id: str
    question: str
    rows_C: NDArray[np.int32]
    """Row of each chunk among the unique chunks of the corpus."""
    gold_C: NDArray[np.bool_]


class Scorer(Protocol):
    """A retriever that was built for a corpus of unique chunks and a set of questions."""

    def scores(self, candidates: Candidates) -> ChunkScores:
        """scores_C: one score for each candidate chunk, the higher the better."""
        ...


@runtime_checkable
class CorpusScorer(Scorer, Protocol):
    """A retriever that can also rank the whole corpus."""

    def corpus_scores(self, questions: Sequence[str]) -> ChunkScores:
        """scores_QN: the score of every unique chunk for every question."""
        ...


def chunk_text(title: str, text: str, *, with_title: bool) -> str:
    """Join title and text as a retriever reads them: `title text`, the format that Contriever was trained on
    (generate_passage_embeddings.py of facebookresearch/contriever @39fb2201). An empty title adds nothing."""
    return f"{title} {text}" if with_title and title else text


def ranks(scores_C: ChunkScores, retriever: str, example_id: str) -> NDArray[np.int32]:
    """Return ranks_C from 0 (the best). Equal scores rank in context order.

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
        self,
        questions: Sequence[str],
        questions_QD: NDArray[np.float32],
        chunks_ND: NDArray[np.float32],
        similarity: Literal["dot", "cosine"],
    ) -> None:
        assert len(questions) == len(questions_QD)
        if similarity == "cosine":
            questions_QD, chunks_ND = _normalised(questions_QD), _normalised(chunks_ND)
        self._row_of = {question: row for row, question in enumerate(questions)}
        self._questions_QD, self._chunks_ND = questions_QD, chunks_ND

    def scores(self, candidates: Candidates) -> ChunkScores:
        chunks_CD = self._chunks_ND[candidates.rows_C].astype(np.float64)
        question_D = self._questions_QD[self._row_of[candidates.question]].astype(np.float64)
        # Summed in float64 and rounded once, so that a score depends neither on the other chunks nor on threads.
        scores_C: ChunkScores = (chunks_CD @ question_D).astype(np.float32)
        return scores_C

    def corpus_scores(self, questions: Sequence[str]) -> ChunkScores:
        rows = [self._row_of[question] for question in questions]
        scores_QN: ChunkScores = self._questions_QD[rows] @ self._chunks_ND.T
        return scores_QN


def _normalised(vectors_ND: NDArray[np.float32]) -> NDArray[np.float32]:
    normalised_ND: NDArray[np.float32] = vectors_ND / np.maximum(
        np.linalg.norm(vectors_ND, axis=1, keepdims=True), 1e-12
    )
    return normalised_ND


class Bm25Scorer:
    """Okapi BM25 over the corpus, with the idf that is never negative: ln(1 + (N - df + 0.5) / (df + 0.5)).

    Words are lower-cased runs of \\w. The term weight is tf / (tf + k1 (1 - b + b len / mean len)), without the
    constant factor k1 + 1: Lucene's form, which ranks the same.
    """

    def __init__(self, texts: Sequence[str], k1: float, b: float) -> None:
        # Word ids by first appearance, because the ids of bm25s follow Python's randomised string hash.
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

    def scores(self, candidates: Candidates) -> ChunkScores:
        counts_QV = self._counts([candidates.question])
        scores_CQ = self._weights_NV[candidates.rows_C] @ counts_QV.T
        return scores_CQ.toarray()[:, 0].astype(np.float32)

    def corpus_scores(self, questions: Sequence[str]) -> ChunkScores:
        return (self._counts(questions) @ self._weights_NV.T).toarray().astype(np.float32)

    def _counts(self, questions: Sequence[str]) -> "sparse.csr_array[np.float64]":
        """counts_QV: how often each word of the corpus occurs in each question."""
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

    A rank is one more than the number of chunks that score higher, so equal scores have equal ranks: the many chunks
    without a word of the question, which BM25 scores 0, gain nothing from their place in the context.
    """

    def __init__(self, scorers: Sequence[CorpusScorer], rank_constant: float) -> None:
        self._scorers, self._rank_constant = scorers, rank_constant

    def scores(self, candidates: Candidates) -> ChunkScores:
        """Fuse the ranks among the candidates."""
        return self._fused([scorer.scores(candidates) for scorer in self._scorers])

    def corpus_scores(self, questions: Sequence[str]) -> ChunkScores:
        """Fuse the ranks among all unique chunks."""
        return self._fused([scorer.corpus_scores(questions) for scorer in self._scorers])

    def _fused(self, scores_of_each: Sequence[ChunkScores]) -> ChunkScores:
        """Fuse the scores of each retriever; chunks are the last axis. NaN or infinity turns its question's to NaN."""
        fused = np.zeros_like(scores_of_each[0], dtype=np.float64)
        for scores in scores_of_each:
            finite = np.where(np.isfinite(scores), scores, np.nan)
            fused += 1 / (self._rank_constant + stats.rankdata(-finite, method="min", axis=-1))
        return fused.astype(np.float32)


class ControlScorer:
    """Controls: the gold chunks first (`oracle`), the gold chunks last (`worst`), chance (`random`)."""

    def __init__(self, kind: Literal["oracle", "worst", "random"], seed: int) -> None:
        self._kind, self._seed = kind, seed

    def scores(self, candidates: Candidates) -> ChunkScores:
        """Random scores depend only on the seed, the example and the place in the context.

        Raises:
            DataError: the control is oracle or worst, and no gold chunk is known.
        """
        if self._kind == "random":
            draws = [
                hashlib.sha256(f"{self._seed}\n{place}\n{candidates.example_id}".encode()).digest()
                for place in range(len(candidates.rows_C))
            ]
            # 24 bits: every draw is an exact float32.
            return np.array([int.from_bytes(draw[:3]) / 2**24 for draw in draws], dtype=np.float32)
        if not candidates.gold_C.any():
            raise DataError(
                f"retriever {self._kind}: example {candidates.example_id} has no known gold chunk; give its question "
                "evidence or gold documents, leave out the questions of split unlabelled (bios: "
                "data.unlabelled_questions: 0), or choose a retriever that needs no gold (minilm, bm25, random)"
            )
        gold_C = candidates.gold_C if self._kind == "oracle" else ~candidates.gold_C
        return gold_C.astype(np.float32)


SCORERS: dict[str, Callable[[Any, Sequence[str], Any], Scorer]] = {
    "encoder": lambda settings, texts, dense: dense,
    "bm25": lambda settings, texts, dense: Bm25Scorer(texts, settings.k1, settings.b),
    "fusion": lambda settings, texts, dense: FusionScorer(
        [dense, Bm25Scorer(texts, settings.k1, settings.b)], settings.rank_constant
    ),
    **dict.fromkeys(
        ("oracle", "worst", "random"), lambda settings, texts, dense: ControlScorer(settings.kind, settings.seed)
    ),
}
"""kind -> builder of the Scorer from its settings, the unique chunk texts, and the encoder's DenseScorer.

The DenseScorer is there for settings that derive from EncoderRetriever, else None.
"""
