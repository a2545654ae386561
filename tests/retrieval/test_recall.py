"""Recall, answer retention and reciprocal rank, worked out by hand; the rank in the corpus against sorting."""

import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.chunks import of_rows
from pipeline.retrieval import recall, retrievers
from pipeline.retrieval.index import ChunkIndex


class InOrder:
    """A retriever that ranks the chunks of every context as listed."""

    def __init__(self, ranks):
        self._ranks = ranks

    def scores(self, candidates):
        return -np.array(self._ranks, dtype=np.float32)


def ranked(
    ranks,
    gold,
    answer,
    documents=None,
    *,
    split="test",
    num_documents=1,
    question="q",
    answers=("word",),
    example_id="e",
):
    """The row of ranks of one example: its chunks have these ranks, and lie in d0, d1, ... or in these documents."""
    names = documents or [f"d{place}" for place in range(len(ranks))]
    chunks = [
        {
            "chunk_id": f"{name}#{place}", "document_id": name, "start": 10 * place, "end": 10 * place + 9, "title": "",
            "text": f"{place} {'word' if has else 'none'}",
        }
        for place, (name, has) in enumerate(zip(names, answer, strict=True))
    ]  # fmt: skip
    evidence = [
        {"document_id": name, "start": 10 * place, "end": 10 * place + 9}
        for place, (name, is_gold) in enumerate(zip(names, gold, strict=True)) if is_gold
    ]  # fmt: skip
    example = {
        "example_id": example_id, "split": split, "question_id": f"id of {question}", "question": question,
        "document_ids": list(dict.fromkeys(names)), "answers": list(answers), "evidence": evidence,
        "gold_document_ids": [],
    }  # fmt: skip
    found = recall.rank(example, ChunkIndex(of_rows(chunks), with_title=True), InOrder(ranks), "toy")[1]
    return {**found, "num_documents": num_documents}


def frame(*rows):
    return pl.DataFrame(rows, schema=recall.RANKS)


def test_metrics_of_three_examples():
    found = recall.metrics_of_splits(
        frame(
            ranked([0, 1], [False, True], [True, False], num_documents=2),
            ranked([3, 2, 1, 0], [True, True, False, False], [True, False, False, False], num_documents=4),
            ranked([0, 1, 2, 3], [False] * 4, [False] * 4, num_documents=4),
        )
    )["test"]
    assert found["all"] == {
        "num_examples": 3,
        "num_gold_known": 2,
        "num_only_gold": 0,
        "num_equal_scores": 0,
        "mean_chunks": pytest.approx(10 / 3),
        "recall": {"1": 0.0, "3": 1.0, "5": 1.0, "7": 1.0, "10": 1.0},
        "all_gold": {"1": 0.0, "3": 0.5, "5": 1.0, "7": 1.0, "10": 1.0},
        "mrr": pytest.approx((1 / 2 + 1 / 3) / 2),
        "answer_retention": {"1": 1 / 3, "3": 1 / 3, "5": 2 / 3, "7": 2 / 3, "10": 2 / 3},
    }
    assert list(found["by_num_documents"]) == ["2", "4"]
    assert found["by_num_documents"]["4"]["num_gold_known"] == 1


def test_splits_come_in_the_order_of_the_examples_and_sizes_in_that_of_numbers():
    rows = [
        ranked([0], [True], [True], split=split, num_documents=number)
        for split, number in (("train", 10), ("train", 2), ("dev", 3), ("train", 10))
    ]
    found = recall.metrics_of_splits(frame(*rows))
    assert list(found) == ["train", "dev"]
    assert {number: part["num_examples"] for number, part in found["train"]["by_num_documents"].items()} == {
        "2": 1, "10": 2,
    }  # fmt: skip
    assert list(found["train"]["by_num_documents"]) == ["2", "10"]


def test_only_examples_with_a_known_gold_chunk_count_for_recall():
    found = frame(
        ranked([0, 1], [False, True], [False] * 2, question="q"),
        ranked([0, 1], [False, False], [False] * 2, question="unknown"),
        ranked([0, 1], [True, False], [False] * 2, question="r"),
    )
    assert recall.metrics(found)["num_gold_known"] == 2
    assert recall.metrics(found)["recall"]["1"] == 0.5


def test_gold_rows_are_those_of_all_contexts_of_a_question():
    found = frame(
        ranked([0, 1], [True, False], [False] * 2, split="train"),
        ranked([0, 1], [False, True], [False] * 2),
        ranked([0, 1], [False, False], [False] * 2, question="unknown"),
    )
    assert recall.gold_rows(found) == {"q": {0, 1}, "unknown": set()}
    assert recall.gold_rows(found.filter(split="train")) == {"q": {0}}
    assert recall.gold_rows(found.filter(split="test")) == {"q": {1}, "unknown": set()}


@pytest.mark.parametrize(
    ("documents", "gold", "expected"),
    [
        (["a", "b", "c"], [True, False, True], 2),  # a shows at rank 1, c at 2
        (["a", "a", "c"], [True, True, True], 2),  # a at 0 by its second chunk
        (["a", "a", "c"], [True, True, False], 0),  # one gold document: the best of its gold chunks
        (["a", "a", "c"], [True, False, False], 1),
        (["a", "b", "c"], [False] * 3, None),
    ],
)
def test_all_gold_asks_for_a_gold_chunk_of_every_gold_document(documents, gold, expected):
    assert ranked([1, 0, 2], gold, [False] * 3, documents)["all_gold_rank"] == expected


def test_one_row_of_the_examples_is_scored_ranked_and_searched_for_its_answer():
    rows = [
        {
            "chunk_id": f"{name}#0",
            "document_id": name,
            "index": 0,
            "start": 0,
            "end": len(text),
            "title": "",
            "text": text,
        }
        for name, text in {
            "a": "The cat sat.",
            "b": "A dog ran to san josé.",
            "c": "A dog in Sanjose.",
        }.items()
    ]
    chunks = ChunkIndex(of_rows(rows), with_title=True)
    example = {
        "example_id": "e", "split": "test", "question_id": "q", "question": "the dog", "answers": ["San  José"],
        "document_ids": ["c", "b"],
        "gold_document_ids": ["b"], "evidence": [],
    }  # fmt: skip
    row, ranks = recall.rank(example, chunks, retrievers.Bm25Scorer(chunks.texts, 1.5, 0.75), "bm25")
    scores = row.pop("scores")
    assert scores[0] > scores[1] > 0
    assert row == {
        "example_id": "e", "chunk_ids": ["c#0", "b#0"], "ranks": [0, 1], "gold": [False, True],
    }  # fmt: skip
    assert ranks == {
        "split": "test", "question_id": "q", "question": "the dog", "num_documents": 2, "num_chunks": 2,
        "has_answers": True, "only_gold": False, "equal_scores": False, "gold_rank": 1, "all_gold_rank": 1,
        "answer_rank": 1, "gold_rows": [1],
    }  # fmt: skip


def test_without_a_known_gold_chunk_recall_is_unknown_and_not_zero():
    found = recall.metrics(frame(ranked([0, 1], [False, False], [True, False])))
    assert found["mrr"] is None and {*found["recall"].values(), *found["all_gold"].values()} == {None}
    assert found["answer_retention"]["1"] == 1.0


def test_contexts_of_gold_chunks_alone_are_counted_and_in_no_mean_over_gold():
    only_gold = ranked([0, 1], [True, True], [False] * 2)
    found = recall.metrics(frame(only_gold, ranked([0, 1], [False, True], [False] * 2)))
    assert (found["num_gold_known"], found["num_only_gold"]) == (2, 1)
    assert (found["recall"]["1"], found["all_gold"]["1"], found["mrr"]) == (0.0, 0.0, 0.5)
    alone = recall.metrics(frame(only_gold, ranked([0], [True], [True])))
    assert (alone["num_gold_known"], alone["num_only_gold"], alone["recall"]["1"], alone["mrr"]) == (2, 2, None, None)


def test_contexts_whose_scores_are_all_equal_are_counted_once_each():
    rows = [
        ranked([3, 3, 3], [True, False, False], [False] * 3),
        ranked([3, 3, 1], [True, False, False], [False] * 3),
        ranked([3], [True], [False]),  # one chunk alone is gold alone
        ranked([3, 3], [True, True], [False] * 2),
        ranked([3, 3], [False, False], [False] * 2),
    ]
    found = recall.metrics(frame(*rows))
    assert (found["num_gold_known"], found["num_only_gold"], found["num_equal_scores"]) == (4, 2, 1)
    assert [row["equal_scores"] for row in rows] == [True, False, False, True, True]


@pytest.mark.parametrize("place", [0, 7])
def test_a_retriever_that_finds_nothing_has_the_recall_of_chance_wherever_the_gold_chunk_stands(place):
    rows = []
    for number in range(400):
        names = [f"d{(number + n) % 8}" for n in range(8)]
        gold = [n == place for n in range(8)]
        rows.append(ranked([0] * 8, gold, [False] * 8, names, example_id=f"e{number}"))
    found = recall.metrics(frame(*rows))
    assert found["num_equal_scores"] == 400
    assert found["recall"]["1"] == pytest.approx(1 / 8, abs=0.05) and found["recall"]["5"] == pytest.approx(
        5 / 8, abs=0.07
    )


def test_answers_are_looked_for_where_there_are_some():
    unlabelled = ranked([0, 1], [False, False], [True, False], answers=())
    assert set(recall.metrics(frame(unlabelled))["answer_retention"].values()) == {None}
    found = recall.metrics(frame(unlabelled, ranked([0, 1], [False, False], [True, False])))
    assert found["num_examples"] == 2 and found["answer_retention"]["1"] == 1.0


@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6).flatmap(
        lambda scores: st.tuples(st.just(scores), st.sets(st.integers(0, len(scores) - 1), min_size=1))
    )
)
def test_corpus_rank_agrees_with_sorting_in_every_order_of_equal_scores(scores_and_gold):
    scores, gold = scores_and_gold
    found = recall.corpus_rank(np.array(scores, dtype=np.float32), gold)
    orders = [sorted(order, key=lambda row: -scores[row]) for order in itertools.permutations(range(len(scores)))]
    for k in range(1, len(scores) + 2):
        expected = sum(not gold.isdisjoint(order[:k]) for order in orders) / len(orders)
        assert found.found(k) == pytest.approx(expected)


def test_every_question_with_a_gold_chunk_ranks_the_whole_corpus(monkeypatch):
    monkeypatch.setattr(recall, "QUESTIONS_PER_BLOCK", 2)
    names = [f"q{n}" for n in range(5)]
    scorer = retrievers.DenseScorer(names, np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32), "dot")
    gold = {"q0": {0}, "q1": {0}, "q2": {2, 3}, "q3": set(), "q4": {3}}
    found = recall.in_corpus(scorer, 5, gold)
    # q1 finds chunk 1 and q4 chunk 4; the other four, their gold chunks among them, score 0 and are in no order.
    assert found == {"num_questions": 4, "num_chunks": 5, "recall": {"1": 0.5, "5": 1.0, "10": 1.0, "20": 1.0}}
    assert recall.in_corpus(scorer, 5, {"q0": set()})["recall"]["1"] is None
    assert recall.in_corpus(scorer, 5, {"q0": set(range(5))})["recall"]["1"] is None  # whatever is found is gold
    monkeypatch.setattr(recall, "CORPUS_KS", (2,))
    assert recall.in_corpus(scorer, 5, gold)["recall"] == {"2": pytest.approx((2 + 2 / 4) / 4)}


def test_controls_rank_no_corpus_and_a_large_one_is_not_ranked(monkeypatch):
    scorer = retrievers.Bm25Scorer(["a", "b"], 1.5, 0.75)
    monkeypatch.setattr(recall, "MAX_CORPUS", 2)
    assert recall.in_corpus(scorer, 2, {"a": {0}})["recall"]["1"] == 1.0
    assert recall.in_corpus(retrievers.ControlScorer("random", 1), 2, {"a": {0}}) is None
    monkeypatch.setattr(recall, "MAX_CORPUS", 1)
    assert recall.in_corpus(scorer, 2, {"a": {0}}) is None


@pytest.mark.parametrize(("flags", "expected"), [([True, True], 1), ([False, True], 3), ([False, False], None)])
def test_best_rank_is_that_of_the_best_flagged_chunk(flags, expected):
    assert recall.best_rank(np.array([1, 3], dtype=np.int32), np.array(flags)) == expected
