"""Scorers and ranks agree with worked examples, slow references, and published figures on Natural Questions."""

import gzip
import json
import math
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval import recall, retrievers
from pipeline.runtime.errors import DataError, NumericError


def context(question="q", rows=(0, 1, 2), gold=(False, True, False), example_id="e"):
    return retrievers.Candidates(example_id, question, np.array(rows, dtype=np.int32), np.array(gold, dtype=np.bool_))


def test_title_stands_before_the_text_unless_there_is_none_or_none_is_wanted():
    assert retrievers.chunk_text("Title", "text", with_title=True) == "Title text"
    assert retrievers.chunk_text("", "text", with_title=True) == "text"
    assert retrievers.chunk_text("Title", "text", with_title=False) == "text"


def test_equal_scores_rank_in_context_order():
    scores = np.array([0.5, 0.9, 0.5, 0.9, -1.0], dtype=np.float32)
    assert retrievers.ranks(scores, "bm25", "e").tolist() == [2, 0, 3, 1, 4]


@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 3.5]), max_size=12))
def test_ranks_agree_with_sorting_by_score_then_place(scores):
    order = sorted(range(len(scores)), key=lambda place: (-scores[place], place))
    expected = [order.index(place) for place in range(len(scores))]
    assert retrievers.ranks(np.array(scores, dtype=np.float32), "bm25", "e").tolist() == expected


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_names_retriever_and_example(bad):
    with pytest.raises(NumericError, match=r"retriever encoder: example e7 .*NaN or infinite"):
        retrievers.ranks(np.array([0.0, bad], dtype=np.float32), "encoder", "e7")


def test_dot_product_sees_length_and_cosine_does_not():
    questions, chunks = np.array([[1.0, 0.0]], np.float32), np.array([[1.0, 0.0], [5.0, 5.0], [0.0, 0.0]], np.float32)
    dot = retrievers.DenseScorer(["q"], questions, chunks, "dot")
    cosine = retrievers.DenseScorer(["q"], questions, chunks, "cosine")
    assert dot.scores(context()).tolist() == [1.0, 5.0, 0.0]
    assert cosine.scores(context()) == pytest.approx([1.0, math.sqrt(0.5), 0.0])
    assert chunks[1].tolist() == [5.0, 5.0], "the scorer changed the embeddings of its caller"


def test_a_score_is_the_same_bits_in_every_context_and_threads_or_order_change_nothing():
    generator = np.random.default_rng(0)
    chunks = generator.normal(size=(50, 384)).astype(np.float32)
    scorer = retrievers.DenseScorer(["q"], generator.normal(size=(1, 384)).astype(np.float32), chunks, "cosine")
    alone = [scorer.scores(context(rows=[row], gold=[True]))[0] for row in range(50)]
    for size in range(2, 51):
        rows = generator.permutation(50)[:size]
        assert scorer.scores(context(rows=rows, gold=rows == 0)).tolist() == [alone[row] for row in rows]
    everywhere = scorer.corpus_scores(["q"])[0]
    assert everywhere == pytest.approx(alone, abs=1e-6)


def okapi(question, text, texts, k1, b):
    """Compute BM25 as the textbook defines it, word by word."""

    def words(string):
        return re.findall(r"\w+", string.lower())

    mean_length = sum(len(words(other)) for other in texts) / len(texts)
    total = 0.0
    for word, count in Counter(words(question)).items():
        tf, df = words(text).count(word), sum(word in words(other) for other in texts)
        idf = math.log(1 + (len(texts) - df + 0.5) / (df + 0.5))
        total += count * idf * tf / (tf + k1 * (1 - b + b * len(words(text)) / mean_length)) if tf else 0.0
    return total


bags = st.lists(st.sampled_from(["a", "B", "b", "Éa", "x_1", "!", " "]), max_size=8).map(" ".join)


@given(st.lists(bags, min_size=1, max_size=6), bags, st.floats(0.1, 3.0), st.floats(0.0, 1.0))
def test_bm25_agrees_with_the_textbook(texts, question, k1, b):
    scorer = retrievers.Bm25Scorer(texts, k1, b)
    expected = [okapi(question, text, texts, k1, b) for text in texts]
    rows = list(range(len(texts)))
    assert scorer.scores(context(question, rows, [False] * len(rows))) == pytest.approx(expected, rel=1e-5, abs=1e-7)
    assert scorer.corpus_scores([question])[0] == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_bm25_scores_the_chunks_of_the_context_by_the_statistics_of_the_corpus():
    texts = ["the cat", "the dog", "the cat sat", "the the the"]
    scorer = retrievers.Bm25Scorer(texts, 1.5, 0.75)
    scores = scorer.scores(context("THE CAT", [2, 1], [True, False]))
    assert scores == pytest.approx([okapi("the cat", texts[row], texts, 1.5, 0.75) for row in (2, 1)])


class Given:
    """A retriever with fixed scores: one list per question, over all chunks of the corpus."""

    def __init__(self, of):
        self._of = {question: np.array(scores, dtype=np.float32) for question, scores in of.items()}

    def scores(self, asked):
        return self._of[asked.question][asked.rows_C]

    def corpus_scores(self, questions):
        return np.stack([self._of[question] for question in questions])


def test_fusion_adds_reciprocal_ranks_and_equal_scores_share_a_rank():
    dense, bm25 = Given({"q": [0.9, 0.1, 0.5, 0.7]}), Given({"q": [0.0, 3.0, 0.0, 0.0]})
    found = retrievers.FusionScorer([dense, bm25], 60.0).scores(context(rows=range(4), gold=[True] * 4))
    # Ranks 1, 4, 3, 2 and 2, 1, 2, 2.
    assert found == pytest.approx([1 / 61 + 1 / 62, 1 / 64 + 1 / 61, 1 / 63 + 1 / 62, 1 / 62 + 1 / 62], rel=1e-6)
    assert retrievers.ranks(found, "fusion", "e").tolist() == [0, 2, 3, 1]


numbers = st.sampled_from([-1.0, 0.0, 0.25, 3.5, 7.0])


@given(
    st.integers(1, 7).flatmap(
        lambda size: st.tuples(
            st.lists(st.lists(numbers, min_size=size, max_size=size), min_size=4, max_size=4),
            st.permutations(range(size)),
        )
    ),
    st.floats(0.5, 100.0),
)
def test_fusion_agrees_with_counting_and_no_chunk_gains_from_its_place(drawn, rank_constant):
    (first, second, other_first, other_second), order = drawn
    scorers = [Given({"q": first, "r": other_first}), Given({"q": second, "r": other_second})]
    fusion = retrievers.FusionScorer(scorers, rank_constant)

    def counted(*of):
        size = len(of[0])
        return [
            sum(1 / (rank_constant + 1 + sum(other > scores[place] for other in scores)) for scores in of)
            for place in range(size)
        ]

    in_order = fusion.scores(context(rows=range(len(first)), gold=[True] * len(first)))
    assert in_order == pytest.approx(counted(first, second), rel=1e-6)
    shuffled = fusion.scores(context(rows=order, gold=[True] * len(first)))
    assert shuffled.tolist() == in_order[list(order)].tolist()
    everywhere = fusion.corpus_scores(["r", "q"])
    assert everywhere[1].tolist() == in_order.tolist()
    assert everywhere[0] == pytest.approx(counted(other_first, other_second), rel=1e-6)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_fusion_hides_no_score_that_is_no_number(bad):
    scorers = [Given({"q": [0.0, bad, 1.0], "r": [0.0, 1.0, 2.0]}), Given({"q": [1.0, 2.0, 3.0], "r": [0.0] * 3})]
    fusion = retrievers.FusionScorer(scorers, 60.0)
    with pytest.raises(NumericError, match=r"retriever fusion: example e .*NaN or infinite"):
        retrievers.ranks(fusion.scores(context()), "fusion", "e")
    assert np.isfinite(fusion.corpus_scores(["r", "q"])).all(axis=1).tolist() == [True, False]


def test_oracle_ranks_gold_first_and_worst_ranks_it_last_the_rest_in_order():
    asked = context(rows=[0, 1, 2, 3], gold=[False, True, False, True])
    oracle, worst = (retrievers.ControlScorer(kind, 0).scores(asked) for kind in ("oracle", "worst"))
    assert retrievers.ranks(oracle, "oracle", "e").tolist() == [2, 0, 3, 1]
    assert retrievers.ranks(worst, "worst", "e").tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("kind", ["oracle", "worst"])
def test_oracle_and_worst_ask_for_a_known_gold_chunk(kind):
    with pytest.raises(DataError, match=rf"retriever {kind}: example e has no known gold chunk.*evidence"):
        retrievers.ControlScorer(kind, 0).scores(context(gold=[False] * 3))


def test_random_scores_depend_on_seed_and_example_and_nothing_else():
    def draw(seed, example_id, gold=(False, True, False)):
        asked = context(rows=[4, 5, 6], gold=gold, example_id=example_id)
        return retrievers.ControlScorer("random", seed).scores(asked).tolist()

    assert draw(1, "e") == draw(1, "e", gold=(False,) * 3)
    assert draw(1, "e") != draw(2, "e") and draw(1, "e") != draw(1, "f")
    # Literal, so that another platform, Python or numpy has to draw the same.
    assert draw(1, "e") == [0.7850603461265564, 0.5874794125556946, 0.4403078556060791]


def test_random_puts_every_place_on_top_equally_often():
    scorer = retrievers.ControlScorer("random", 1)
    tops = Counter(
        int(scorer.scores(context(rows=range(4), gold=[True] * 4, example_id=str(n))).argmax()) for n in range(4000)
    )
    assert all(900 < tops[place] < 1100 for place in range(4))


def natural_questions(shared, first):
    with gzip.open(shared / "data/nq/nq-open-oracle.jsonl.gz", "rt", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    texts = [retrievers.chunk_text(r["ctxs"][0]["title"], r["ctxs"][0]["text"], with_title=True) for r in records]
    row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
    gold = {r["question"]: {row_of[text]} for r, text in zip(records[:first], texts, strict=False)}
    return list(row_of), gold


def test_bm25_reaches_the_known_recall_on_natural_questions(shared):
    texts, gold = natural_questions(shared, 500)
    assert (len(texts), len(gold)) == (2600, 500)
    found = recall.in_corpus(retrievers.Bm25Scorer(texts, 1.5, 0.75), len(texts), gold)["recall"]
    assert found["1"] >= 0.73 and found["10"] >= 0.91, found
