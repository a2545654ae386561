"""The masked view: a literal example for each mode, and what holds for every input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.views import masking

MASK = 9
# BOS, instruction, three chunks of two tokens, question, answer
IDS = np.array([1, 2, 10, 11, 20, 21, 30, 31, 3, 4], dtype=np.int32)
STARTS = np.array([2, 4, 6], dtype=np.int32)
ENDS = np.array([4, 6, 8], dtype=np.int32)


@pytest.mark.parametrize(
    ("mode", "ids", "positions", "prompt_end"),
    [
        ("token", [1, 2, 9, 9, 9, 9, 30, 31, 3, 4], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], 9),
        ("skip", [1, 2, 30, 31, 3, 4], [0, 1, 6, 7, 8, 9], 5),
        ("span", [1, 2, 9, 30, 31, 3, 4], [0, 1, 2, 3, 4, 5, 6], 6),
        ("drop", [1, 2, 30, 31, 3, 4], [0, 1, 2, 3, 4, 5], 5),
    ],
)
def test_last_chunk_kept(mode, ids, positions, prompt_end):
    view = masking.masked_view(IDS, STARTS, ENDS, 9, np.array([False, False, True]), mode, MASK)
    assert view.input_ids.tolist() == ids
    assert view.position_ids.tolist() == positions
    assert view.prompt_end == prompt_end


def test_span_writes_one_mask_for_each_run():
    view = masking.masked_view(IDS, STARTS, ENDS, 9, np.array([False, True, False]), "span", MASK)
    assert view.input_ids.tolist() == [1, 2, 9, 20, 21, 9, 3, 4]


def test_top_k_keeps_the_best_ranks_and_all_when_there_are_fewer():
    assert masking.keep_top(np.array([2, 0, 1]), 2).tolist() == [False, True, True]
    assert masking.keep_top(np.array([2, 0, 1]), 5).all()


@st.composite
def contexts(draw):
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=8))
    gaps = draw(st.lists(st.integers(0, 2), min_size=len(lengths), max_size=len(lengths)))
    starts, ends, place = [], [], draw(st.integers(1, 4))
    for length, gap in zip(lengths, gaps, strict=True):
        starts.append(place + gap)
        ends.append(place + gap + length)
        place = ends[-1]
    prompt_end = place + draw(st.integers(1, 4))
    num_tokens = prompt_end + draw(st.integers(1, 3))
    ids = np.arange(100, 100 + num_tokens, dtype=np.int32)
    kept = np.array(draw(st.lists(st.booleans(), min_size=len(lengths), max_size=len(lengths))))
    return ids, np.array(starts, dtype=np.int32), np.array(ends, dtype=np.int32), prompt_end, kept


@given(contexts())
def test_token_mode_keeps_length_positions_and_every_kept_token(context):
    ids, starts, ends, prompt_end, kept = context
    view = masking.masked_view(ids, starts, ends, prompt_end, kept, "token", MASK)
    assert view.prompt_end == prompt_end
    assert view.position_ids.tolist() == list(range(len(ids)))
    for place, (before, after) in enumerate(zip(ids, view.input_ids, strict=True)):
        in_masked = any(s <= place < e for s, e, k in zip(starts, ends, kept, strict=True) if not k)
        assert after == (MASK if in_masked else before)


@given(contexts())
def test_modes_agree_on_what_is_kept(context):
    ids, starts, ends, prompt_end, kept = context
    views = {
        mode: masking.masked_view(ids, starts, ends, prompt_end, kept, mode, MASK)
        for mode in ("token", "skip", "span", "drop")
    }
    token, skip = views["token"], views["skip"]
    assert skip.input_ids.tolist() == [i for i in token.input_ids if i != MASK]
    assert skip.position_ids.tolist() == [
        p for i, p in zip(token.input_ids, token.position_ids, strict=True) if i != MASK
    ]
    assert views["drop"].input_ids.tolist() == skip.input_ids.tolist()
    assert views["drop"].prompt_end == skip.prompt_end
    assert [i for i in views["span"].input_ids if i != MASK] == skip.input_ids.tolist()
    for view in views.values():
        # Question and answer are never masked, and the labels start where the prompt ends.
        assert view.input_ids[view.prompt_end :].tolist() == ids[prompt_end:].tolist()


@given(contexts())
def test_nothing_masked_is_the_full_view(context):
    ids, starts, ends, prompt_end, kept = context
    for mode in ("token", "skip", "span", "drop"):
        view = masking.masked_view(ids, starts, ends, prompt_end, np.ones_like(kept), mode, MASK)
        assert view.input_ids.tolist() == ids.tolist()
        assert view.position_ids.tolist() == list(range(len(ids)))
