"""Whole numbers into neighbouring groups."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.ranges import Range, ranges


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.integers(1, 8), st.integers(1, 6))
def test_ranges_hold_every_value_once_in_order(values: list[int], most: int, parts: int):
    found = ranges(values, most=most, parts=parts)
    assert all(sum(low <= value <= high for low, high in found) == 1 for value in values)
    assert found == sorted(found)
    assert {bound for part in found for bound in part} <= set(values)
    assert len(found) == len(set(values)) if len(set(values)) <= most else len(found) <= parts


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.integers(1, 6))
def test_a_range_holds_no_less_than_half_its_share(values: list[int], parts: int):
    found = ranges(values, most=1, parts=parts)
    for low, high in found if len(found) > 1 else []:
        assert sum(low <= value <= high for value in values) >= len(values) / (2 * parts)


def test_a_handful_of_the_longest_is_joined_to_the_range_below():
    values = [5, 6, 7, 8, 9] * 100 + [10] * 500 + [11] * 5 + [12] * 5
    assert ranges(values, most=6, parts=4)[-1] == Range(10, 12)


def test_no_values_have_no_ranges():
    assert ranges([], most=3, parts=3) == []
    assert ranges([5, 5], most=1, parts=3) == [Range(5, 5)]
