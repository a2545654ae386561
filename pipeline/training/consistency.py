"""Does the model say over the full view what it says over the masked one? A loss of ours, on answers alone.

The paper pulls the two views together in one vector (InfoNCE), which in-batch negatives can do by the look of context
and question. This loss pulls together what the vector is for, the answer: the Kullback-Leibler divergence from the
model's own distribution over the masked view, held fixed, to that over the full view, at each label token.
"""

# N label tokens of a pack, V vocabulary, E examples of a pack

import torch
from torch import Tensor

from pipeline.training import losses
from pipeline.training.micro_batch import Pack


class Answers:
    """Of the masked views of a step, by example; their packs come before those of the full views."""

    def __init__(self, num_own: int) -> None:
        self._num_own = num_own
        self._logits_of: dict[int, Tensor] = {}

    def divergence(self, pack: Pack, logits_NV: Tensor) -> Tensor:
        """Of each example, shape (E,), in nats, summed over its label tokens; 0 for masked views, which are kept."""
        places = pack.places_E.tolist()
        num_E = torch.bincount(pack.view.label_examples_N, minlength=len(places)).tolist()
        if pack.is_masked(self._num_own):
            kept = torch.split(logits_NV.detach(), num_E)
            self._logits_of |= {place - self._num_own: logits for place, logits in zip(places, kept, strict=True)}
            return logits_NV.new_zeros(len(places), dtype=torch.promote_types(logits_NV.dtype, torch.float32))
        fixed_NV = torch.cat([self._logits_of[place] for place in places])
        return losses.divergence_of_logits(logits_NV, fixed_NV, pack.view.label_examples_N, len(places))
