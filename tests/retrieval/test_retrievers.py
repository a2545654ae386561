"""Scorers and ranks agree with worked examples, slow references, and published figures on Natural Questions."""

import gzip
import json
import math
import re
from collections import Counter

import bm25s
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


def ranked(scores, retriever="bm25", example_id="e"):
    names = [f"c{n}" for n in range(len(scores))]
    return retrievers.ranks(np.array(scores, dtype=np.float32), retriever, example_id, names)


@given(st.lists(st.sampled_from([-1.0, -0.0, 0.0, 0.25, 3.5]), max_size=12))
def test_ranks_are_places_and_a_higher_score_has_the_better_one(scores):
    found = ranked(scores).tolist()
    assert sorted(found) == list(range(len(scores)))
    assert all(a < b for a, x in zip(found, scores, strict=True) for b, y in zip(found, scores, strict=True) if x > y)


@given(st.permutations(range(6)), st.lists(st.sampled_from([0.0, 1.0]), min_size=6, max_size=6))
def test_equal_scores_rank_alike_wherever_the_chunks_stand(order, scores):
    names = [f"c{n}" for n in range(6)]
    plain = retrievers.ranks(np.array(scores, dtype=np.float32), "bm25", "e", names)
    moved = retrievers.ranks(np.array([scores[n] for n in order], np.float32), "bm25", "e", [names[n] for n in order])
    assert moved.tolist() == [plain[n] for n in order]


def test_no_place_is_favoured_among_equal_scores():
    first = Counter(int(np.argmin(ranked([0.0] * 4, example_id=f"e{n}"))) for n in range(400))
    assert sorted(first) == [0, 1, 2, 3] and min(first.values()) > 70  # 100 each, give or take 9


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_names_retriever_and_example(bad):
    with pytest.raises(NumericError, match=r"retriever encoder: example e7 .*NaN or infinite"):
        ranked([0.0, bad], "encoder", "e7")


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


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30).map(" ".join), min_size=1, max_size=12),
    bags,
)
def test_bm25_agrees_with_that_of_bm25s(texts, question):
    ids = [["abcdefgh".index(word) for word in text.split()] for text in texts]
    index = bm25s.BM25(k1=1.2, b=0.7, method="lucene", dtype="float64")
    index.index((ids, {word: place for place, word in enumerate("abcdefgh")}), show_progress=False)
    asked = ["abcdefgh".index(word) for word in question.lower().split() if word in "ab"]
    expected = np.zeros(len(texts))
    for word in dict.fromkeys(asked):
        start, end = index.scores["indptr"][word : word + 2]
        expected[index.scores["indices"][start:end]] += index.scores["data"][start:end] * asked.count(word)
    found = retrievers.Bm25Scorer(texts, 1.2, 0.7)
    scores = found.scores(context(question, range(len(texts)), [False] * len(texts)))
    assert np.allclose(scores, expected, rtol=1e-6, atol=0)
    assert np.allclose(found.corpus_scores([question])[0], expected, rtol=1e-6, atol=0)


def test_bm25_scores_the_chunks_of_the_context_by_the_statistics_of_the_corpus():
    texts = ["the cat", "the dog", "the cat sat", "the the the"]
    scorer = retrievers.Bm25Scorer(texts, 1.5, 0.75)
    scores = scorer.scores(context("THE CAT", [2, 1], [True, False]))
    assert scores == pytest.approx([okapi("the cat", texts[row], texts, 1.5, 0.75) for row in (2, 1)])


@pytest.mark.parametrize("place", [0, 3, 7])
@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("{}城的灯塔建于一八{}年\uff0c看守人姓{}。这座塔很高。", "{}城的灯塔建于哪一年\uff1f"),
        ("{}町の灯台は高い。みんなが{}町を訪れる。", "{}町の灯台は高いですか。"),
        ("{}시의등대는높다.사람들이{}시를찾는다.", "{}시의 등대는 높은가?"),
        ("ประภาคารของเมือง{}สูงมาก", "ประภาคารของเมือง{}สูงไหม"),
    ],
    ids=["Chinese", "Japanese", "Korean", "Thai"],
)
def test_bm25_finds_the_chunk_in_text_without_blanks_wherever_it_stands(text, question, place):
    names = list("กขคงจฉชซ" if "ป" in text else "동남서북춘하추겨" if "시" in text else "东南西北春夏秋冬")
    texts = [text.replace("{}", name) for name in names]
    bm25 = retrievers.Bm25Scorer(texts, 1.5, 0.75)
    for gold, name in enumerate(names):
        rows = [row for row in range(8) if row != gold]
        rows.insert(place, gold)
        scores = bm25.scores(context(question.format(name), rows, [row == gold for row in rows]))
        assert ranked(scores)[place] == 0 and scores[place] > np.delete(scores, place).max()


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
    assert ranked(found).tolist() == [0, 2, 3, 1]


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
        ranked(fusion.scores(context()), "fusion")
    assert np.isfinite(fusion.corpus_scores(["r", "q"])).all(axis=1).tolist() == [True, False]


def test_oracle_ranks_gold_first_and_worst_ranks_it_last():
    asked = context(rows=[0, 1, 2, 3], gold=[False, True, False, True])
    oracle, worst = (retrievers.ControlScorer(kind, 0).scores(asked) for kind in ("oracle", "worst"))
    assert set(ranked(oracle)[[1, 3]]) == {0, 1}
    assert set(ranked(worst)[[1, 3]]) == {2, 3}


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
