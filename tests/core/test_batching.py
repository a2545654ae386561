"""Rows, packs of rows, and their tensors."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import batching


def test_padding_and_labels_literally():
    view = batching.pad(
        [np.array([1, 5, 6, 7, 2]), np.array([1, 8, 2])],
        [np.array([0, 1, 2, 3, 4]), np.array([0, 4, 5])],
        [3, 2],
        pad_id=0,
    )
    assert view.input_ids_BL.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]
    assert view.mask_BL.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert view.position_ids_BL.tolist() == [[0, 1, 2, 3, 4], [0, 4, 5, 0, 0]]
    assert view.row_E.tolist() == view.label_examples_N.tolist()[1:] == [0, 1]
    assert view.label_examples_N.tolist() == [0, 0, 1]
    assert view.label_positions_N.tolist() == [2, 3, 1]
    assert view.labels_N.tolist() == [7, 2, 2]


def test_a_shared_row_literally():
    """Context 1 5 6; questions 7 and 8 9; answers 2 and 3 2."""
    row = batching.row_of_many([np.array([1, 5, 6, 7, 2]), np.array([1, 5, 6, 8, 9, 3, 2])], [4, 5], 3)
    assert row.input_ids.tolist() == [1, 5, 6, 7, 2, 8, 9, 3, 2]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6]
    assert row.branches == ((3, 4, 5), (5, 7, 9))
    view = batching.collate([row], pad_id=0)
    assert view.branch_BL.tolist() == [[-1, -1, -1, 0, 0, 1, 1, 1, 1]]
    assert view.label_examples_N.tolist() == [0, 1, 1]
    assert view.label_positions_N.tolist() == [3, 6, 7]
    assert view.labels_N.tolist() == [2, 3, 2]
    seen = batching.tree_mask(view, None)[0, 0].int().tolist()
    assert seen[4] == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert seen[6] == [1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert batching.tree_mask(view, 3)[0, 0].int().tolist()[6] == [0, 0, 1, 0, 0, 1, 1, 0, 0]  # positions 2, 3, 4


@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 200),
)
def test_packs_hold_every_row_once_within_their_budget(shapes, batch_tokens):
    rows = []
    for length, shared in shapes:
        ids = np.arange(length + 2, dtype=np.int32)
        one = batching.row_of_one(ids, ids, length)
        rows.append(batching.row_of_many([ids, ids], [length + 1] * 2, length) if shared else one)
    packs = list(batching.packs(rows, batch_tokens))
    assert sorted(index for pack in packs for index in pack) == list(range(len(rows)))
    for pack in packs:
        lengths = [len(rows[index]) for index in pack]
        if len(pack) > 1:
            assert len(pack) * max(lengths) <= batch_tokens
            assert min(lengths) >= batching.SHORTEST_BESIDE * max(lengths)
            assert all(len(rows[index].branches) == 1 for index in pack)
