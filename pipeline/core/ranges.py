"""Whole numbers into a few neighbouring groups, for the axes of figures."""

from collections.abc import Sequence
from typing import NamedTuple


class Range(NamedTuple):
    """Neighbouring whole numbers, both ends included."""

    low: int
    high: int

    def label(self, shift: int = 0) -> str:
        low, high = self.low + shift, self.high + shift
        return f"{low}" if low == high else f"{low}\N{EN DASH}{high}"


def ranges(values: Sequence[int], *, most: int, parts: int) -> list[Range]:
    """Each value on its own while there are at most `most`, else up to `parts` ranges of about equally many values."""
    distinct = sorted(set(values))
    if len(distinct) <= most:
        return [Range(value, value) for value in distinct]
    num_below = {value: sum(other < value for other in values) for value in distinct}
    cuts = [len(values) * part / parts for part in range(parts)]
    starts = sorted({min(distinct, key=lambda value: abs(num_below[value] - cut)) for cut in cuts})
    ends = [max(value for value in distinct if value < start) for start in starts[1:]] + [distinct[-1]]
    return [Range(low, high) for low, high in zip(starts, ends, strict=True)]
