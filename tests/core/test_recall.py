"""Recall, answer retention and reciprocal rank, worked out by hand; the collection's rank against sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import recall, retrieval


def add(quality, split, num_documents, ranks, gold, answer, question="q"):
    rows = np.arange(len(ranks), dtype=np.int32)
    context = retrieval.Context("e", question, rows, np.array(gold, dtype=np.bool_))
    quality.add(split, num_documents, context, np.array(ranks, dtype=np.int32), np.array(answer, dtype=np.bool_))


def test_shares_of_three_examples():
    quality = recall.Quality()
    add(quality, "test", 2, [0, 1], gold=[False, True], answer=[True, False])
    add(quality, "test", 4, [3, 2, 1, 0], gold=[True, True, False, False], answer=[True, False, False, False])
    add(quality, "test", 4, [0, 1, 2, 3], gold=[False] * 4, answer=[False] * 4)
    found = quality.splits()["test"]
    assert found["all"] == {
        "num_examples": 3,
        "num_gold_known": 2,
        "mean_chunks": 10 / 3,
        "recall": {"1": 0.0, "3": 1.0, "5": 1.0, "10": 1.0},
        "mrr": (1 / 2 + 1 / 3) / 2,
        "answer_retention": {"1": 1 / 3, "3": 1 / 3, "5": 2 / 3, "10": 2 / 3},
    }
    assert list(found["by_num_documents"]) == ["2", "4"]
    assert found["by_num_documents"]["4"]["num_gold_known"] == 1
    assert quality.gold_rows == {"q": {0, 1}}


def test_without_a_known_gold_chunk_recall_is_unknown_and_not_zero():
    quality = recall.Quality()
    add(quality, "dev", 2, [0, 1], gold=[False, False], answer=[True, False])
    found = quality.splits()["dev"]["all"]
    assert found["mrr"] is None and set(found["recall"].values()) == {None}
    assert found["answer_retention"]["1"] == 1.0


def test_an_answer_stands_in_a_chunk_as_whole_words_whatever_its_case():
    texts = ["She moved to San  José.", "sanjose", "nothing"]
    assert recall.answer_flags(texts, ["Paris", "san josé"]).tolist() == [True, False, False]


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=10).flatmap(
        lambda scores: st.tuples(st.just(scores), st.sets(st.integers(0, len(scores) - 1), min_size=1))
    )
)
def test_collection_rank_agrees_with_sorting(scores_and_gold):
    scores, gold = scores_and_gold
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    assert recall.collection_rank(np.array(scores, dtype=np.float32), gold) == min(order.index(row) for row in gold)


def test_every_question_with_a_gold_chunk_ranks_the_whole_collection(monkeypatch):
    monkeypatch.setattr(recall, "QUESTIONS_PER_BLOCK", 2)
    names = [f"q{n}" for n in range(5)]
    scorer = retrieval.DenseScorer(names, np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32), "dot")
    gold = {"q0": {0}, "q1": {0}, "q2": {2, 3}, "q3": set(), "q4": {3}}
    found = recall.in_collection(scorer, 5, gold)
    # q1 finds chunk 1, then 0; q4 finds 4, then 0, 1, 2 and at rank 4 its gold chunk 3.
    assert found == {"num_questions": 4, "num_chunks": 5, "recall": {"1": 0.5, "5": 1.0, "10": 1.0, "20": 1.0}}
    assert recall.in_collection(scorer, 5, {"q0": set()})["recall"]["1"] is None


@pytest.mark.parametrize(("flags", "expected"), [([True, True], 1), ([False, True], 3), ([False, False], None)])
def test_best_rank_is_that_of_the_best_flagged_chunk(flags, expected):
    assert recall.best_rank(np.array([1, 3], dtype=np.int32), np.array(flags)) == expected
