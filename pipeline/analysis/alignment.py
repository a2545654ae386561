"""How close the two views of an example are in representation space, and how far from other examples.

Alignment and uniformity after Wang and Isola, "Understanding contrastive representation learning through alignment and
uniformity on the hypersphere" (arXiv 2005.10242), alignment given as a cosine.
"""

# N examples, D hidden

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


class Alignment(NamedTuple):
    """All over the N examples at once."""

    alignment: float
    """Mean cosine of the two views of one example."""
    alignment_others: float
    """Mean cosine of a full view and the masked view of another example."""
    in_batch_accuracy: float
    """Share of full views whose nearest masked view, of all N, is their own."""
    uniformity: float
    """log mean exp(-2 |z - z'|^2) over pairs of full views; lower is more spread out, 0 is all in one point."""
    uniformity_masked: float
    """The same over pairs of masked views."""


def align(z_full_ND: Tensor, z_masked_ND: Tensor) -> Alignment:
    """Compare N >= 2 pairs of representations, not yet normalised; computed in fp32."""
    full_ND = functional.normalize(z_full_ND.float(), dim=-1)
    masked_ND = functional.normalize(z_masked_ND.float(), dim=-1)
    cosine_NN = full_ND @ masked_ND.T
    num = len(cosine_NN)
    own = cosine_NN.diagonal()
    others = (cosine_NN.sum() - own.sum()) / (num * (num - 1))
    own_N = torch.arange(num, device=cosine_NN.device)
    return Alignment(
        alignment=float(own.mean()),
        alignment_others=float(others),
        in_batch_accuracy=float((cosine_NN.argmax(dim=1) == own_N).float().mean()),
        uniformity=_uniformity(full_ND),
        uniformity_masked=_uniformity(masked_ND),
    )


def cosines(z_full_ND: Tensor, z_masked_ND: Tensor) -> list[float]:
    """Of the two views of each example; `Alignment.alignment` is their mean."""
    found: list[float] = functional.cosine_similarity(z_full_ND.float(), z_masked_ND.float(), dim=-1).tolist()
    return found


def _uniformity(z_ND: Tensor) -> float:
    return float(torch.pdist(z_ND).square().mul(-2).exp().mean().log())
