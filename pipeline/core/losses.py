"""The two losses of focused learning (paper section 3): causal LM on each view, InfoNCE between the views."""

# B pairs, N label tokens of the batch, V vocabulary, D hidden

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional


def causal_lm(logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """Mean cross-entropy per label token, in fp32."""
    return functional.cross_entropy(logits_NV.float(), labels_N)


class Contrast(NamedTuple):
    """The contrastive loss and what is watched beside it; all scalars."""

    loss: Tensor
    in_batch_accuracy: Tensor
    """Share of full views whose nearest masked view is their own."""
    alignment: Tensor
    """Mean cosine of the two views of one example."""
    alignment_others: Tensor
    """Mean cosine of views of different examples."""


def info_nce(z_full_BD: Tensor, z_masked_BD: Tensor, temperature: float) -> Contrast:
    """Symmetric InfoNCE over the batch: a full view attracts its own masked view and repels the others', and back.

    Representations come unnormalised; cosine similarities and the loss are computed in fp32.
    """
    z_full_BD = functional.normalize(z_full_BD.float(), dim=-1)
    z_masked_BD = functional.normalize(z_masked_BD.float(), dim=-1)
    cosine_BB = z_full_BD @ z_masked_BD.T
    own_B = torch.arange(len(cosine_BB), device=cosine_BB.device)
    sim_BB = cosine_BB / temperature
    loss = (functional.cross_entropy(sim_BB, own_B) + functional.cross_entropy(sim_BB.T, own_B)) / 2
    with torch.no_grad():
        own = cosine_BB.diagonal()
        others = (cosine_BB.sum() - own.sum()) / max(cosine_BB.numel() - len(own), 1)
        accuracy = (cosine_BB.argmax(dim=1) == own_B).float().mean()
    return Contrast(loss, accuracy, own.detach().mean(), others)
