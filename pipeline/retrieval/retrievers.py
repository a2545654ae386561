"""Retrievers: each scores the chunks of a question's context, by one signature. No torch here.

To add a retriever, write a class with the signature of `Scorer`, give it an entry in SCORERS, add its settings class
with a `kind` to pipeline/runtime/settings.py, and a bundle to conf/retriever/.
"""

# Q questions, C candidate chunks of one question, N unique chunks of the corpus, D embedding dimensions, V words,
# T words of a text, E words of several texts, H those of them that are asked for

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import sparse, stats

from pipeline.common.chunks import Scratch
from pipeline.common.text import terms
from pipeline.runtime.errors import DataError, NumericError

ChunkScores = NDArray[np.float32]
QUESTIONS_PER_PRODUCT = 32  # a sparse product takes 24 bytes for each question and chunk, a score takes 4


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


def ranks(scores_C: ChunkScores, retriever: str, example_id: str, chunk_ids: Sequence[str]) -> NDArray[np.int32]:
    """Return ranks_C from 0 (the best).

    Equal scores rank by a digest of the example and the chunk: by chance, and the same wherever the chunk stands, so
    that a retriever that finds nothing favours no place in the context.

    Raises:
        NumericError: a score is NaN or infinite.
    """
    if not np.isfinite(scores_C).all():
        raise NumericError(
            f"retriever {retriever}: example {example_id} got a score that is NaN or infinite; look for a damaged "
            "checkpoint, or run on another device (FOCUS_DEVICE=cpu)"
        )
    ranks_C = np.empty(len(scores_C), dtype=np.int32)
    order = np.argsort(-scores_C, kind="stable")
    if (np.diff(scores_C[order]) == 0).any():
        draws = [hashlib.sha256(f"{example_id}\n{name}".encode()).digest() for name in chunk_ids]
        order = np.array(sorted(range(len(scores_C)), key=lambda place: (-scores_C[place], draws[place])))
    ranks_C[order] = np.arange(len(scores_C), dtype=np.int32)
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

    Its words are those of `text.terms`. The term weight is tf / (tf + k1 (1 - b + b len / mean len)), without the
    constant factor k1 + 1: Lucene's form, which ranks the same. The words of the texts stay on disk.
    """

    def __init__(self, texts: Sequence[str], k1: float, b: float) -> None:
        self._k1, self._b = k1, b
        self._id_of: dict[str, int] = {}
        words, counts, ends, lengths = (Scratch(kind) for kind in (np.int32, np.int32, np.int64, np.int32))
        num_texts_V = np.zeros(1024, dtype=np.int64)
        end = 0
        ends.append([end])
        for text in texts:
            ids = [self._id_of.setdefault(word, len(self._id_of)) for word in terms(text)]
            words_T, counts_T = np.unique(np.array(ids, dtype=np.int32), return_counts=True)
            while len(self._id_of) > len(num_texts_V):
                num_texts_V = np.concatenate([num_texts_V, np.zeros_like(num_texts_V)])
            num_texts_V[words_T] += 1
            end += len(words_T)
            for column, values in ((words, words_T), (counts, counts_T), (ends, [end]), (lengths, [len(ids)])):
                column.append(values)
        # E: the distinct words of each text, one text behind the other.
        self._words_E, self._counts_E = words.mapped(), counts.mapped()
        self._ends_N, self._lengths_N = ends.mapped(), lengths.mapped()
        self._mean_length = float(self._lengths_N.mean()) if len(texts) else 0.0
        found = num_texts_V[: len(self._id_of)].tolist()
        self._idf_V = np.array([math.log(1 + (len(texts) - df + 0.5) / (df + 0.5)) for df in found], dtype=np.float64)

    def scores(self, candidates: Candidates) -> ChunkScores:
        asked = Counter(self._id_of[word] for word in terms(candidates.question) if word in self._id_of)
        starts_C, ends_C = self._ends_N[candidates.rows_C], self._ends_N[candidates.rows_C + 1]
        spans = [slice(start, end) for start, end in zip(starts_C.tolist(), ends_C.tolist(), strict=True)]
        sums_C: NDArray[np.float64] = np.zeros(len(spans))
        if asked and spans:
            asked_Q = np.array(sorted(asked), dtype=np.int32)
            words_E = np.concatenate([self._words_E[span] for span in spans])
            place_E = np.minimum(np.searchsorted(asked_Q, words_E), len(asked_Q) - 1)
            (hits,) = np.nonzero(asked_Q[place_E] == words_E)
            chunk_H = np.repeat(np.arange(len(spans)), ends_C - starts_C)[hits]
            counts_H = np.concatenate([self._counts_E[span] for span in spans])[hits]
            weights_H = self._weights(words_E[hits], counts_H, self._lengths_N[candidates.rows_C][chunk_H])
            times_Q = np.array([asked[word] for word in asked_Q.tolist()], dtype=np.float64)
            # Sums in the order of the words, as of a sparse product.
            sums_C += np.bincount(chunk_H, weights_H * times_Q[place_E[hits]], minlength=len(spans))
        return sums_C.astype(np.float32)

    def _weights(
        self, words_E: NDArray[np.int32], counts_E: NDArray[np.int32], lengths_E: NDArray[np.int32]
    ) -> NDArray[np.float64]:
        """Weight of a word that occurs so often in a text of such length."""
        norm_E = self._k1 * ((1 - self._b) + self._b * lengths_E / self._mean_length)
        weights_E: NDArray[np.float64] = self._idf_V[words_E] * (counts_E / (norm_E + counts_E))
        return weights_E

    @cached_property
    def _weights_NV(self) -> "sparse.csr_array[np.float64]":
        lengths_E = np.repeat(self._lengths_N, np.diff(self._ends_N))
        weights_E = self._weights(self._words_E, self._counts_E, lengths_E)
        shape = (len(self._lengths_N), len(self._id_of))
        return sparse.csr_array((weights_E, self._words_E, self._ends_N), shape=shape)

    def corpus_scores(self, questions: Sequence[str]) -> ChunkScores:
        scores_QN = np.empty((len(questions), len(self._lengths_N)), dtype=np.float32)
        for start in range(0, len(questions), QUESTIONS_PER_PRODUCT):
            block = slice(start, start + QUESTIONS_PER_PRODUCT)
            scores_QN[block] = (self._counts(questions[block]) @ self._weights_NV.T).toarray()
        return scores_QN

    def _counts(self, questions: Sequence[str]) -> "sparse.csr_array[np.float64]":
        """counts_QV: how often each word of the corpus occurs in each question."""
        entries = [
            (row, self._id_of[word], float(count))
            for row, question in enumerate(questions)
            for word, count in Counter(terms(question)).items()
            if word in self._id_of
        ]
        rows, columns, counts = zip(*entries, strict=True) if entries else ((), (), ())
        shape = (len(questions), len(self._id_of))
        return sparse.csr_array((np.array(counts, dtype=np.float64), (rows, columns)), shape=shape)


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
    **dict.fromkeys(("encoder", "sentence_transformer"), lambda settings, texts, dense: dense),
    "bm25": lambda settings, texts, dense: Bm25Scorer(texts, settings.k1, settings.b),
    "fusion": lambda settings, texts, dense: FusionScorer(
        [dense, Bm25Scorer(texts, settings.k1, settings.b)], settings.rank_constant
    ),
    **dict.fromkeys(
        ("oracle", "worst", "random"), lambda settings, texts, dense: ControlScorer(settings.kind, settings.seed)
    ),
}
"""kind -> builder of the Scorer from its settings, the unique chunk texts, and the encoder's DenseScorer.

The DenseScorer is there for settings that derive from DenseRetriever, else None.
"""
