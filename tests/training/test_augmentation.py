"""Documents in another order: the same tokens, each document whole, prompt and answer in place."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training import dataset


def test_documents_move_whole_and_the_rest_stays():
    ids = np.array([1, 2, 10, 11, 12, 20, 21, 30, 31, 32, 33, 90, 91], dtype=np.int32)
    starts, ends, documents = [2, 4, 5, 7], [4, 5, 7, 11], ["a", "a", "b", "c"]
    seen = {tuple(dataset.shuffled(ids, starts, ends, documents, [1, step]).tolist()) for step in range(60)}
    texts = ([10, 11, 12], [20, 21], [30, 31, 32, 33])
    orders = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
    assert seen == {(1, 2, *(token for place in order for token in texts[place]), 90, 91) for order in orders}


@given(st.lists(st.integers(0, 4), max_size=6), st.integers(0, 5), st.integers(0, 5), st.integers(0, 2**31))
def test_nothing_is_lost_and_equal_seeds_draw_equal_orders(lengths, before, behind, seed):
    bounds = (before + np.concatenate(([0], np.cumsum(lengths)))).astype(int).tolist()
    ids = np.arange(before + sum(lengths) + behind, dtype=np.int32)
    documents = [str(number // 2) for number in range(len(lengths))]
    found = dataset.shuffled(ids, bounds[:-1], bounds[1:], documents, [seed])
    assert sorted(found.tolist()) == ids.tolist()
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found[:before], ids[:before])
    np.testing.assert_array_equal(found[len(ids) - behind :], ids[len(ids) - behind :])
    np.testing.assert_array_equal(found, dataset.shuffled(ids, bounds[:-1], bounds[1:], documents, [seed]))
