"""Recall, answer retention and reciprocal rank, worked out by hand; the collection's rank against sorting."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval import recall, retrievers
from pipeline.retrieval.index import Chunk, Collection


def ranked(ranks, gold, answer, documents=None, question="q"):
    """Chunks d0#0, d1#0, ... of these ranks, or of the documents named."""
    names = documents or [f"d{place}" for place in range(len(ranks))]
    chunks = [Chunk(f"{name}#{place}", name, 0, 1, "", place) for place, name in enumerate(names)]
    context = retrievers.Context("e", question, np.arange(len(ranks), dtype=np.int32), np.array(gold, dtype=np.bool_))
    numbers = np.array(ranks, dtype=np.int32)
    return recall.Ranked(chunks, context, -numbers.astype(np.float32), numbers, np.array(answer, dtype=np.bool_))


def add(quality, split, num_documents, ranks, gold, answer, question="q", answers=("a",)):
    example = {
        "split": split,
        "question_id": f"id of {question}",
        "document_ids": ["d"] * num_documents,
        "answers": answers,
    }
    quality.add(example, ranked(ranks, gold, answer, question=question))


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
        "recall": {"1": 0.0, "3": 1.0, "5": 1.0, "7": 1.0, "10": 1.0},
        "all_gold": {"1": 0.0, "3": 0.5, "5": 1.0, "7": 1.0, "10": 1.0},
        "mrr": (1 / 2 + 1 / 3) / 2,
        "answer_retention": {"1": 1 / 3, "3": 1 / 3, "5": 2 / 3, "7": 2 / 3, "10": 2 / 3},
    }
    assert list(found["by_num_documents"]) == ["2", "4"]
    assert found["by_num_documents"]["4"]["num_gold_known"] == 1


def test_hits_come_with_the_question_they_belong_to_and_only_where_gold_is_known():
    quality = recall.Quality()
    add(quality, "test", 1, [0, 1], gold=[False, True], answer=[False] * 2, question="q")
    add(quality, "test", 1, [0, 1], gold=[False, False], answer=[False] * 2, question="unknown")
    add(quality, "test", 1, [0, 1], gold=[True, False], answer=[False] * 2, question="r")
    assert quality.of_split["test"].gold_hits(1) == ([False, True], ["id of q", "id of r"])
    assert quality.of_split["test"].gold_hits(3)[0] == [True, True]


def test_gold_rows_are_those_of_one_split_or_of_all():
    quality = recall.Quality()
    add(quality, "train", 1, [0, 1], gold=[True, False], answer=[False] * 2)
    add(quality, "test", 1, [0, 1], gold=[False, True], answer=[False] * 2)
    add(quality, "test", 1, [0, 1], gold=[False, False], answer=[False] * 2, question="unknown")
    assert quality.gold_rows() == {"q": {0, 1}, "unknown": set()}
    assert quality.gold_rows("train") == {"q": {0}}
    assert quality.gold_rows("test") == {"q": {1}, "unknown": set()}


@pytest.mark.parametrize(
    ("documents", "gold", "expected"),
    [
        (["a", "b", "c"], [True, False, True], 5),  # a shows at rank 2, c at 5
        (["a", "a", "c"], [True, True, True], 5),  # a at 0 by its second chunk
        (["a", "a", "c"], [True, True, False], 0),  # one gold document: the best of its gold chunks
        (["a", "a", "c"], [True, False, False], 2),
        (["a", "b", "c"], [False] * 3, None),
    ],
)
def test_all_gold_asks_for_a_gold_chunk_of_every_gold_document(documents, gold, expected):
    assert recall.all_gold_rank(ranked([2, 0, 5], gold, [False] * 3, documents)) == expected


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
        for name, text in {"a": "The cat sat.", "b": "A dog ran to Rome.", "c": "Dogs and a dog."}.items()
    ]
    known = Collection(rows, with_title=True)
    example = {
        "example_id": "e", "question": "the dog", "answers": ["rome"], "document_ids": ["c", "b"],
        "gold_document_ids": ["b"], "evidence": [],
    }  # fmt: skip
    found = recall.rank(example, known, retrievers.Bm25Scorer(known.texts, 1.5, 0.75), "bm25")
    assert [chunk.chunk_id for chunk in found.chunks] == ["c#0", "b#0"]
    assert found.context.gold_C.tolist() == found.answer_C.tolist() == [False, True]
    assert found.scores_C[0] > found.scores_C[1] > 0 and found.ranks_C.tolist() == [0, 1]


def test_without_a_known_gold_chunk_recall_is_unknown_and_not_zero():
    quality = recall.Quality()
    add(quality, "dev", 2, [0, 1], gold=[False, False], answer=[True, False])
    found = quality.splits()["dev"]["all"]
    assert found["mrr"] is None and {*found["recall"].values(), *found["all_gold"].values()} == {None}
    assert found["answer_retention"]["1"] == 1.0


def test_answers_are_looked_for_where_there_are_some():
    quality = recall.Quality()
    add(quality, "unlabelled", 2, [0, 1], gold=[False, False], answer=[False, False], answers=[])
    assert set(quality.splits()["unlabelled"]["all"]["answer_retention"].values()) == {None}
    add(quality, "unlabelled", 2, [0, 1], gold=[False, False], answer=[True, False])
    found = quality.splits()["unlabelled"]["all"]
    assert found["num_examples"] == 2 and found["answer_retention"]["1"] == 1.0


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
    scorer = retrievers.DenseScorer(names, np.eye(5, dtype=np.float32), np.eye(5, dtype=np.float32), "dot")
    gold = {"q0": {0}, "q1": {0}, "q2": {2, 3}, "q3": set(), "q4": {3}}
    found = recall.in_collection(scorer, 5, gold)
    # q1 finds chunk 1, then 0; q4 finds 4, then 0, 1, 2 and at rank 4 its gold chunk 3.
    assert found == {"num_questions": 4, "num_chunks": 5, "recall": {"1": 0.5, "5": 1.0, "10": 1.0, "20": 1.0}}
    assert recall.in_collection(scorer, 5, {"q0": set()})["recall"]["1"] is None


def test_controls_rank_no_collection_and_a_large_one_is_not_ranked(monkeypatch):
    scorer = retrievers.Bm25Scorer(["a", "b"], 1.5, 0.75)
    monkeypatch.setattr(recall, "MAX_COLLECTION", 2)
    assert recall.in_collection(scorer, 2, {"a": {0}})["recall"]["1"] == 1.0
    assert recall.in_collection(retrievers.ControlScorer("random", 1), 2, {"a": {0}}) is None
    monkeypatch.setattr(recall, "MAX_COLLECTION", 1)
    assert recall.in_collection(scorer, 2, {"a": {0}}) is None


@pytest.mark.parametrize(("flags", "expected"), [([True, True], 1), ([False, True], 3), ([False, False], None)])
def test_best_rank_is_that_of_the_best_flagged_chunk(flags, expected):
    assert recall.best_rank(np.array([1, 3], dtype=np.int32), np.array(flags)) == expected
