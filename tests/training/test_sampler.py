"""Which examples stand in the batch of every step."""

import re
from collections import Counter
from itertools import combinations, pairwise

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


def test_many_questions_about_one_document_say_what_to_set():
    with pytest.raises(ConfigError, match=r"questions_per_document, here up to 18\); allowed is 1 to 1; .* divide the"):
        batch_indices(["handbook"] * 18, 1, 16, 0)
    assert [len(batch) for batch in batch_indices(["handbook"] * 18, 2, 16, 0, 16)] == [16, 16]


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


@given(
    st.lists(st.sets(st.sampled_from("abcdefgh"), min_size=1, max_size=3), min_size=1, max_size=25),
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, 5),
)
def test_examples_that_share_a_gold_text_are_never_in_one_batch_unless_they_share_all(golds, batch, m, seed):
    keys = ["\t".join(sorted(gold)) for gold in golds]
    try:
        batches = batch_indices(keys, 12, batch, seed, m)
    except ConfigError as error:
        assert re.search(r"allowed is 1 to \d", str(error))
        return
    for indices in batches:
        assert len(indices) == batch
        for one, other in combinations(indices, 2):
            assert keys[one] == keys[other] or golds[one].isdisjoint(golds[other])


def test_an_example_that_shares_with_all_others_keeps_none_of_them_waiting():
    keys = ["a\tb\tc\td", "a", "b", "c", "d"]
    used = Counter(index for batch in batch_indices(keys, 8, 2, 0) for index in batch)
    assert set(used) == {1, 2, 3, 4} and set(used.values()) == {4}
    with pytest.raises(
        ConfigError, match=r"allowed is 1 to 4; examples that share a gold text are never in one batch$"
    ):
        batch_indices(keys, 8, 5, 0)
