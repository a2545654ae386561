"""How long the full views of a split are, and what was cut from them."""

from collections.abc import Iterable
from typing import Any

from pipeline.common.documents import Evidence, gold_flags
from pipeline.views.full_view import Context


class Lengths:
    """Sums over the rows of one split, and the shares they make."""

    def __init__(self) -> None:
        self.num_examples = self.num_tokens = self.longest = self.num_cut = 0
        self._num_gold_known = self._num_gold_cut = 0

    def add(
        self, num_tokens: int, whole: Context, cut: Context, spans: Iterable[tuple[str, int, int]], gold: list[Evidence]
    ) -> None:
        """Count a row of `num_tokens`: its context before and after the cut, its chunks as (document, start, end)."""
        self.num_examples += 1
        self.num_tokens += num_tokens
        self.longest = max(self.longest, num_tokens)
        self.num_cut += len(cut.input_ids) < len(whole.input_ids)
        flags = list(gold_flags(spans, gold))
        if any(flags):
            places = zip(flags, whole.chunk_starts, whole.chunk_ends, cut.chunk_starts, cut.chunk_ends, strict=True)
            self._num_gold_known += 1
            self._num_gold_cut += any(
                flag and cut_end - cut_start < end - start for flag, start, end, cut_start, cut_end in places
            )

    def shares(self) -> dict[str, Any]:
        """`cut`: rows whose context was cut; `gold_cut`: rows that lost tokens of a gold chunk, of those that know one
        (None without any)."""
        known = self._num_gold_known
        return {
            "num_examples": self.num_examples,
            "mean_tokens": self.num_tokens / self.num_examples,
            "max_tokens": self.longest,
            "cut": self.num_cut / self.num_examples,
            "gold_cut": self._num_gold_cut / known if known else None,
        }
