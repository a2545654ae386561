"""Rows, packs of rows, and their tensors."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import collator


def test_padding_and_labels_literally():
    view = collator.pad(
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
    row = collator.row_of_many([np.array([1, 5, 6, 7, 2]), np.array([1, 5, 6, 8, 9, 3, 2])], [4, 5], 3)
    assert row.input_ids.tolist() == [1, 5, 6, 7, 2, 8, 9, 3, 2]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6]
    assert row.branches == ((3, 4, 5), (5, 7, 9))
    view = collator.collate([row], pad_id=0)
    assert view.branch_BL.tolist() == [[-1, -1, -1, 0, 0, 1, 1, 1, 1]]
    assert view.label_examples_N.tolist() == [0, 1, 1]
    assert view.label_positions_N.tolist() == [3, 6, 7]
    assert view.labels_N.tolist() == [2, 3, 2]
    seen = collator.tree_mask(view, None)[0, 0].int().tolist()
    assert seen[4] == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert seen[6] == [1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert collator.tree_mask(view, 3)[0, 0].int().tolist()[6] == [0, 0, 1, 0, 0, 1, 1, 0, 0]  # positions 2, 3, 4


@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 200),
)
def test_packs_hold_every_row_once_within_their_budget(shapes, batch_tokens):
    rows = []
    for length, shared in shapes:
        ids = np.arange(length + 2, dtype=np.int32)
        one = collator.row_of_one(ids, ids, length)
        rows.append(collator.row_of_many([ids, ids], [length + 1] * 2, length) if shared else one)
    packs = list(collator.packs(rows, batch_tokens))
    assert sorted(index for pack in packs for index in pack) == list(range(len(rows)))
    for pack in packs:
        lengths = [len(rows[index]) for index in pack]
        if len(pack) > 1:
            assert len(pack) * max(lengths) <= batch_tokens
            assert min(lengths) >= collator.SHORTEST_BESIDE * max(lengths)
            assert all(len(rows[index].branches) == 1 for index in pack)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch, by itself
@pytest.mark.parametrize("window", [None, 150])
@pytest.mark.parametrize("num_shared", [256, 300])
def test_a_block_mask_made_by_rows_of_blocks_is_that_of_create_block_mask(num_shared, window):
    """Two rows of several blocks, of unequal length, with skipped, whole and partial blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    views = [np.arange(num_shared + own, dtype=np.int32) for own in (140, 300, 5)]
    ends = [len(ids) - 2 for ids in views]
    made = [collator.row_of_many(views, ends, num_shared), collator.row_of_many(views[:2], ends[:2], num_shared)]
    view = collator.collate(made, pad_id=0)
    ours = collator.block_mask(view, window)
    theirs = create_block_mask(ours.mask_mod, 2, None, *ours.seq_lengths, device="cpu")
    for side in ("kv", "full_kv", "q", "full_q"):
        for name in (f"{side}_num_blocks", f"{side}_indices"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.shape == theirs.shape
    blocks = ours.kv_num_blocks.shape[-1]
    partial, whole = (int(counts[0].sum()) for counts in (ours.kv_num_blocks, ours.full_kv_num_blocks))
    assert partial > 0 and partial + whole < blocks**2
    assert whole > 0 or window
