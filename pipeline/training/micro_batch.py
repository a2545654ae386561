"""What one process computes of one step: forwards of packed rows, and what they count in the whole."""

# B examples of the batch, b those of this process, E those of a pack

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.model.collator import View


class Pack(NamedTuple):
    """One forward."""

    view: View
    places_E: Tensor
    """Place of each example among those of this process; + b where it is the example's masked view."""
    idle: bool = False
    """Computed to keep step with the other processes, counted by none."""

    def is_masked(self, num_own: int) -> bool:
        """All its rows are masked views, of a process that has `num_own` examples."""
        return bool((self.places_E >= num_own).all())


class Batch(NamedTuple):
    """What this process computes of a step."""

    packs: Sequence[Pack]
    num_own: int
    """b."""
    num_labels_full: int
    """Label tokens of all full views of the step, over all processes; `num_labels_masked` likewise."""
    num_labels_masked: int
    same_document_BB: Tensor | None
    """True for two examples over one context, never on the diagonal; None when there are none."""
    taught: Sequence[Pack] = ()
    """Views with a teacher's distribution, apart from the others; their places mean nothing."""
    num_labels_taught: int = 0
    """Of the step, over all processes."""

    def to(self, device: torch.device) -> "Batch":
        packs, taught = (
            [Pack(pack.view.to(device), pack.places_E.to(device), pack.idle) for pack in found]
            for found in (self.packs, self.taught)
        )
        same = None if self.same_document_BB is None else self.same_document_BB.to(device)
        return self._replace(packs=packs, same_document_BB=same, taught=taught)
