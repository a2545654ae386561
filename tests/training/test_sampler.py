"""Which examples stand in the batch of every step."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.errors import ConfigError, DataError
from pipeline.training.sampler import batch_indices


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 5))
def test_no_context_stands_twice_in_a_batch_and_batches_are_full(keys, batch, seed):
    if len(set(keys)) < batch:
        with pytest.raises(ConfigError, match="distinct contexts"):
            batch_indices(keys, 3, batch, seed)
        return
    batches = batch_indices(keys, 6, batch, seed)
    assert len(batches) == 6
    for indices in batches:
        assert len(indices) == batch
        assert len({keys[index] for index in indices}) == batch


def test_every_example_is_used_once_before_any_is_used_twice():
    keys = [str(number) for number in range(12)]
    batches = batch_indices(keys, 6, 4, 1)
    first, second = ([index for batch in part for index in batch] for part in (batches[:3], batches[3:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_more_steps_go_on_in_the_same_order():
    keys = [str(number) for number in range(10)]
    assert batch_indices(keys, 4, 3, 7) == batch_indices(keys, 9, 3, 7)[:4]


def test_no_training_examples_says_what_to_set():
    with pytest.raises(DataError, match="split train"):
        batch_indices([], 1, 1, 0)


@given(
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(0, 5),
)
def test_questions_of_a_context_stand_side_by_side_and_no_more_than_allowed(keys, batch, m, seed):
    usable = sum(min(count, m) for count in Counter(keys).values())
    if usable < batch:
        with pytest.raises(ConfigError, match=f"allowed is 1 to {usable}"):
            batch_indices(keys, 3, batch, seed, m)
        return
    for indices in batch_indices(keys, 6, batch, seed, m):
        assert len(indices) == len(set(indices)) == batch
        found = [keys[index] for index in indices]
        assert max(Counter(found).values()) <= m
        assert 1 + sum(one != other for one, other in pairwise(found)) == len(set(found))  # one run each


def test_questions_of_a_context_are_gathered():
    """Eight documents of four questions: each batch of eight is two documents, all four questions of each."""
    keys = [str(number // 4) for number in range(32)]
    for indices in batch_indices(keys, 4, 8, 1, 4):
        assert sorted(Counter(keys[index] for index in indices).values()) == [4, 4]
