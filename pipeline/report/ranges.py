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
    """Each value on its own while there are at most `most`, else up to `parts` ranges of about equally many values.

    None of these holds less than half of its even share: the longest contexts are what the claims are about.
    """
    distinct = sorted(set(values))
    if len(distinct) <= most:
        return [Range(value, value) for value in distinct]
    num_below = {value: sum(other < value for other in values) for value in distinct}
    cuts = [len(values) * part / parts for part in range(parts)]
    starts = sorted({min(distinct, key=lambda value: abs(num_below[value] - cut)) for cut in cuts})
    ends = [max(value for value in distinct if value < start) for start in starts[1:]] + [distinct[-1]]
    found = [Range(low, high) for low, high in zip(starts, ends, strict=True)]
    while len(found) > 1:
        sizes = [sum(low <= value <= high for value in values) for low, high in found]
        small = sizes.index(min(sizes))
        if sizes[small] >= len(values) / (2 * parts):
            break
        beside = [place for place in (small - 1, small + 1) if 0 <= place < len(found)]
        first, second = sorted((small, min(beside, key=lambda place: sizes[place])))
        found[first : second + 1] = [Range(found[first].low, found[second].high)]
    return found
