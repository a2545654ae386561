"""The parts of a built context: the ranking, the gold passage found in it, and its place."""

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.data.benchmarks import nq_contexts
from pipeline.data.benchmarks.nq_contexts import Collection
from pipeline.data.benchmarks.nq_lines import Passage
from pipeline.runtime.errors import DataError


@pytest.mark.parametrize("num_documents", [1, 2, 10, 30])
def test_spread_gives_each_place_equally_often_in_a_drawn_order(num_documents):
    places = [
        nq_contexts.position_of_gold("spread", num_documents, question, seed=1)
        for question in range(20 * num_documents)
    ]
    assert set(Counter(places).values()) == {20}
    assert set(places) == set(range(num_documents))
    if num_documents > 2:
        assert places != [
            nq_contexts.position_of_gold("spread", num_documents, question, seed=2) for question in range(len(places))
        ]


@given(st.lists(st.integers(-3, 3)), st.integers(1, 12), st.integers(0, 40))
def test_the_best_come_first_and_equal_ones_in_order_however_few_are_likely(scores, num_likely, num_read):
    scores_N = np.array(scores, dtype=np.float32)
    found = list(islice(nq_contexts.best_first(scores_N, num_likely), num_read))
    assert found == np.argsort(-scores_N, kind="stable").tolist()[:num_read]


def scored(*texts, title=""):
    collection = Collection([Passage(title=title, text=text) for text in texts])
    return collection, collection.scores(["where is the lake"])[0]


def test_gold_is_the_best_passage_whose_text_holds_any_of_the_answers():
    collection, scores_N = scored("The east.", "Where is the lake?", "The lake is in the East.", "The lake is west.")
    assert collection.gold(["east"], scores_N).text == "The lake is in the East."
    assert collection.gold(["eas"], scores_N) is None
    assert {collection.gold([*pair], scores_N).text for pair in (("west", "east"), ("east", "west"))} == {
        "The lake is west."
    }


def test_an_answer_in_the_title_makes_a_passage_neither_gold_nor_a_distractor():
    collection, scores_N = scored("The lake.", "The sea.", title="East")
    assert collection.gold(["east"], scores_N) is None
    own = Passage(text="It is east.")
    assert collection.distractors("where is the lake", ["east"], own, scores_N, 0) == []
    with pytest.raises(DataError, match=r"'where is the lake' needs 1 distractors, the collection has 0 passages"):
        collection.distractors("where is the lake", ["east"], own, scores_N, 1)


@pytest.mark.parametrize(("num_better", "found"), [(99, True), (100, False)])
def test_gold_is_looked_for_among_the_first_hundred(num_better, found):
    collection, scores_N = scored(*(f"Where is the lake {number}" for number in range(num_better)), "In the east.")
    assert (collection.gold(["east"], scores_N) is not None) == found


def test_distractors_go_on_behind_the_first_hundred():
    texts = [f"Where is the lake {number}, is it east" for number in range(120)]
    collection, scores_N = scored(*texts, "North.", "South.")
    chosen = collection.distractors("where is the lake", ["east"], Passage(text="It is east."), scores_N, 2)
    assert [passage.text for passage in chosen] == ["North.", "South."]
