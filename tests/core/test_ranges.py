"""Whole numbers into neighbouring groups."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.ranges import Range, ranges


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.integers(1, 8), st.integers(1, 6))
def test_ranges_hold_every_value_once_in_order(values: list[int], most: int, parts: int):
    found = ranges(values, most=most, parts=parts)
    assert all(sum(low <= value <= high for low, high in found) == 1 for value in values)
    assert found == sorted(found)
    assert {bound for part in found for bound in part} <= set(values)
    assert len(found) == len(set(values)) if len(set(values)) <= most else len(found) <= parts


def test_no_values_have_no_ranges():
    assert ranges([], most=3, parts=3) == []
    assert ranges([5, 5], most=1, parts=3) == [Range(5, 5)]
