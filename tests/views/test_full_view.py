"""Contexts that are cut to a length."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.views import full_view
from pipeline.views.full_view import Context

LAID = Context([1, 2, 10, 11, 12, 20, 21, 22, 30, 31], [2, 5, 8], [5, 8, 10])


@pytest.mark.parametrize(
    ("max_tokens", "where", "expected"),
    [
        (10, "cut_end", LAID),
        (7, "cut_end", Context([1, 2, 10, 11, 12, 20, 31], [2, 5, 6], [5, 6, 7])),
        (5, "cut_end", Context([1, 2, 10, 11, 31], [2, 4, 4], [4, 4, 5])),
        (7, "cut_middle", Context([1, 2, 10, 11, 22, 30, 31], [2, 4, 5], [4, 5, 7])),
        (4, "cut_middle", Context([1, 2, 10, 31], [2, 3, 3], [3, 3, 4])),
        (3, "cut_middle", Context([1, 2, 31], [2, 2, 2], [2, 2, 3])),
    ],
)
def test_a_cut_keeps_head_and_last_token_and_moves_the_spans(max_tokens, where, expected):
    assert full_view.cut(LAID, max_tokens, where) == expected


@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    head=st.integers(1, 3),
    room=st.integers(1, 40),
    where=st.sampled_from(["cut_end", "cut_middle"]),
)
def test_after_any_cut_each_chunk_holds_a_part_of_itself_in_order(lengths, head, room, where):
    ids = list(range(head + sum(lengths)))
    starts = [head + sum(lengths[:place]) for place in range(len(lengths))]
    laid = Context(ids, starts, [start + length for start, length in zip(starts, lengths, strict=True)])
    found = full_view.cut(laid, head + room, where)
    assert len(found.input_ids) == min(len(ids), head + room)
    assert found.input_ids == sorted(set(found.input_ids)) and found.input_ids[:head] == ids[:head]
    assert found.input_ids[-1] == ids[-1]
    assert (found.chunk_starts[0], found.chunk_ends[-1]) == (head, len(found.input_ids))
    for before, after in zip(
        zip(laid.chunk_starts, laid.chunk_ends, strict=True),
        zip(found.chunk_starts, found.chunk_ends, strict=True),
        strict=True,
    ):
        assert set(found.input_ids[slice(*after)]) == set(found.input_ids) & set(ids[slice(*before)])
