"""Rows of tokens, which of them share a forward, their tensors and attention masks."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.model import attention_mask, collator


def one(ids: Sequence[int], prompt_end: int) -> collator.TokenRow:
    return collator.row_of_one(np.array(ids, dtype=np.int32), np.arange(len(ids), dtype=np.int32), prompt_end)


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
    row = collator.row_of_many([one([1, 5, 6, 7, 2], 4), one([1, 5, 6, 8, 9, 3, 2], 5)], 3)
    assert row.input_ids.tolist() == [1, 5, 6, 7, 2, 8, 9, 3, 2]
    assert row.position_ids.tolist() == [0, 1, 2, 3, 4, 3, 4, 5, 6]
    assert row.segments == ((3, 4, 5), (5, 7, 9))
    view = collator.collate([row], pad_id=0)
    assert view.segment_BL.tolist() == [[-1, -1, -1, 0, 0, 1, 1, 1, 1]]
    assert view.label_examples_N.tolist() == [0, 1, 1]
    assert view.label_positions_N.tolist() == [3, 6, 7]
    assert view.labels_N.tolist() == [2, 3, 2]
    seen = attention_mask.tree_mask(view, None)[0, 0].int().tolist()
    assert seen[4] == [1, 1, 1, 1, 1, 0, 0, 0, 0]
    assert seen[6] == [1, 1, 1, 0, 0, 1, 1, 0, 0]
    assert attention_mask.tree_mask(view, 3)[0, 0].int().tolist()[6] == [0, 0, 1, 0, 0, 1, 1, 0, 0]  # positions 2, 3, 4


def taught(ids: Sequence[int], prompt_end: int, chunks: list[int], shares: list[float]) -> collator.TokenRow:
    chunk_L = np.array(chunks + [collator.NO_CHUNK] * (len(ids) - len(chunks)), dtype=np.int32)
    return replace(one(ids, prompt_end), chunk_L=chunk_L, target_EC=np.array([shares], dtype=np.float32))


def test_targets_of_attention_literally():
    """Chunks 5 and 6 7, and one that was cut off; beside it a masked view, which has no target, and a longer row."""
    view = collator.collate(
        [
            one([1, 5, 3, 3, 8, 2], 5),
            taught([1, 5, 6, 7, 8, 2], 5, [-1, 0, 1, 1], [0.25, 0.5, 0.25]),
            taught([1, 9, 10, 8, 8, 8, 2], 6, [-1, 0, 1], [0.0, 1.0]),
        ],
        pad_id=0,
    )
    assert view.chunk_BL.tolist() == [
        [-1] * 7,
        [-1, 0, 1, 1, -1, -1, -1],
        [-1, 0, 1, -1, -1, -1, -1],
    ]
    assert view.target_EC.tolist() == [[0.0, 0.0, 0.0], [0.25, 0.5, 0.25], [0.0, 1.0, 0.0]]
    without = collator.collate([one([1, 5, 2], 2)], pad_id=0)
    assert without.chunk_BL is None and without.target_EC is None
    moved = view.to(torch.device("meta"))
    assert moved.chunk_BL.is_meta and moved.target_EC.is_meta


def test_questions_in_one_row_keep_their_own_targets():
    context, chunks = [1, 5, 6], [-1, 0, 1]
    questions = [taught([*context, 7, 2], 4, chunks, [1.0, 0.0]), taught([*context, 8, 9, 2], 5, chunks, [0.2, 0.8])]
    row = collator.row_of_many(questions, 3)
    assert row.chunk_L.tolist() == [-1, 0, 1, -1, -1, -1, -1, -1]
    view = collator.collate([row, one([1, 2], 1)], pad_id=0)
    np.testing.assert_allclose(view.target_EC, [[1.0, 0.0], [0.2, 0.8], [0.0, 0.0]])
    assert view.row_E.tolist() == [0, 0, 1]


@given(
    st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=20),
    st.integers(1, 200),
)
def test_groups_of_rows_hold_every_row_once_within_their_budget(shapes, batch_tokens):
    rows = []
    for length, shared in shapes:
        ids = range(length + 2)
        rows.append(collator.row_of_many([one(ids, length + 1)] * 2, length) if shared else one(ids, length))
    groups = collator.group_rows(rows, batch_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(rows)))
    for group in groups:
        lengths = [len(rows[index]) for index in group]
        if len(group) > 1:
            assert len(group) * max(lengths) <= batch_tokens
            assert min(lengths) >= collator.SHORTEST_BESIDE * max(lengths)
            assert all(len(rows[index].segments) == 1 for index in group)


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(1, 120), st.booleans())
def test_groups_hold_every_sequence_once_within_the_budget(lengths, batch_tokens, equal):
    found = collator.group_by_length(lengths, batch_tokens, min_ratio=float(equal))
    assert sorted(index for batch in found for index in batch) == list(range(len(lengths)))
    for batch in found:
        longest = max(lengths[index] for index in batch)
        assert len(batch) == 1 or len(batch) * longest <= batch_tokens
        assert not equal or {lengths[index] for index in batch} == {longest}
    firsts = [lengths[index] for batch in found for index in batch]
    assert firsts == sorted(lengths, reverse=True)  # like beside like: the least padding
