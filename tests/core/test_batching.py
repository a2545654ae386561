"""The schedule and the padded views."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core import batching
from pipeline.errors import ConfigError, DataError


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 5))
def test_no_context_stands_twice_in_a_batch_and_batches_are_full(keys, batch, seed):
    if len(set(keys)) < batch:
        with pytest.raises(ConfigError, match="distinct contexts"):
            batching.schedule(keys, 3, batch, seed)
        return
    batches = batching.schedule(keys, 6, batch, seed)
    assert len(batches) == 6
    for indices in batches:
        assert len(indices) == batch
        assert len({keys[index] for index in indices}) == batch


def test_every_example_is_used_once_before_any_is_used_twice():
    keys = [str(number) for number in range(12)]
    batches = batching.schedule(keys, 6, 4, 1)
    first, second = ([index for batch in part for index in batch] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_more_steps_go_on_in_the_same_order():
    keys = [str(number) for number in range(10)]
    assert batching.schedule(keys, 4, 3, 7) == batching.schedule(keys, 9, 3, 7)[:4]


def test_no_training_examples_says_what_to_set():
    with pytest.raises(DataError, match="split train"):
        batching.schedule([], 1, 1, 0)


def test_padding_and_labels_literally():
    view = batching.pad(
        [np.array([1, 5, 6, 7, 2]), np.array([1, 8, 2])],
        [np.array([0, 1, 2, 3, 4]), np.array([0, 4, 5])],
        [3, 2],
        pad_id=0,
    )
    assert view.input_ids_BL.tolist() == [[1, 5, 6, 7, 2], [1, 8, 2, 0, 0]]
    assert view.attention_mask_BL.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert view.position_ids_BL.tolist() == [[0, 1, 2, 3, 4], [0, 4, 5, 0, 0]]
    assert view.label_rows_N.tolist() == [0, 0, 1]
    assert view.label_positions_N.tolist() == [2, 3, 1]
    assert view.labels_N.tolist() == [7, 2, 2]
