"""The losses: causal LM on each view and InfoNCE between the views (paper section 3); divergence from a teacher.

Does the model say over the full view what it says over the masked one? A loss of ours, on answers alone.

The paper pulls the two views together in one vector (InfoNCE), which in-batch negatives can do by the look of context
and question. This loss pulls together what the vector is for, the answer: the Kullback-Leibler divergence from the
model's own distribution over the masked view, held fixed, to that over the full view, at each label token.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.dataset import Pack

# B pairs, N label tokens of the batch, V vocabulary, D hidden, K likeliest tokens of the teacher


def causal_lm(logits_NV: Tensor, labels_N: Tensor, examples_N: Tensor, num_examples: int) -> Tensor:
    """Cross-entropy of each of the E examples, shape (E,), summed over its label tokens, in nats, at least in fp32."""
    logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    token_N = functional.cross_entropy(logits_NV, labels_N, reduction="none")
    return token_N.new_zeros(num_examples).index_add(0, examples_N, token_N)


def divergence(
    logits_NV: Tensor, top_ids_NK: Tensor, top_log_probs_NK: Tensor, examples_N: Tensor, num_examples: int
) -> Tensor:
    """Kullback-Leibler divergence from the teacher to the model, shape (E,), summed over each example's label tokens.

    In nats, at least in fp32. Of the teacher's distribution its K likeliest tokens are known; all others count as one
    outcome, so that it is a lower bound, and exact for K = V.
    """
    number_format = torch.promote_types(logits_NV.dtype, torch.float32)
    log_q_NK = functional.log_softmax(logits_NV.to(number_format), dim=-1).gather(1, top_ids_NK)
    log_p_NK = top_log_probs_NK.to(number_format)
    p_NK = log_p_NK.exp()
    tiny = torch.finfo(number_format).eps
    rest_p_N = (1 - p_NK.sum(dim=1)).clamp(min=0)
    rest_q_N = (1 - log_q_NK.exp().sum(dim=1)).clamp(min=tiny)
    rest_N = torch.xlogy(rest_p_N, rest_p_N) - rest_p_N * rest_q_N.log()
    token_N = (p_NK * (log_p_NK - log_q_NK)).sum(dim=1) + rest_N
    return token_N.new_zeros(num_examples).index_add(0, examples_N, token_N)


def divergence_of_logits(logits_NV: Tensor, fixed_NV: Tensor, examples_N: Tensor, num_examples: int) -> Tensor:
    """Kullback-Leibler divergence from softmax(fixed) to softmax(logits), shape (E,), summed over each example's label
    tokens. In nats, at least in fp32."""
    number_format = torch.promote_types(logits_NV.dtype, torch.float32)
    log_q_NV, log_p_NV = (functional.log_softmax(found.to(number_format), dim=-1) for found in (logits_NV, fixed_NV))
    token_N = functional.kl_div(log_q_NV, log_p_NV, log_target=True, reduction="none").sum(dim=1)
    return token_N.new_zeros(num_examples).index_add(0, examples_N, token_N)


class Contrast(NamedTuple):
    """The contrastive loss and what is watched beside it; all scalars."""

    loss: Tensor
    in_batch_accuracy: Tensor
    """Share of full views whose nearest masked view is their own."""
    alignment: Tensor
    """Mean cosine of the two views of one example."""
    alignment_others: Tensor
    """Mean cosine of views of different examples."""


def info_nce(z_full_BD: Tensor, z_masked_BD: Tensor, temperature: float, excluded_BB: Tensor | None = None) -> Contrast:
    """Symmetric InfoNCE over the batch: a full view attracts its own masked view and repels the others', and back.

    Representations come unnormalised; cosine similarities and the loss are computed at least in fp32. Pairs that are
    `excluded_BB` (symmetric, never the diagonal) neither attract nor repel.
    """
    number_format = torch.promote_types(z_full_BD.dtype, torch.float32)
    z_full_BD = functional.normalize(z_full_BD.to(number_format), dim=-1)
    z_masked_BD = functional.normalize(z_masked_BD.to(number_format), dim=-1)
    cosine_BB = z_full_BD @ z_masked_BD.T
    own_B = torch.arange(len(cosine_BB), device=cosine_BB.device)
    sim_BB = cosine_BB / temperature
    if excluded_BB is not None:
        sim_BB = sim_BB.masked_fill(excluded_BB, -torch.inf)
    loss = (functional.cross_entropy(sim_BB, own_B) + functional.cross_entropy(sim_BB.T, own_B)) / 2
    with torch.no_grad():
        own = cosine_BB.diagonal()
        others = (cosine_BB.sum() - own.sum()) / max(cosine_BB.numel() - len(own), 1)
        accuracy = (sim_BB.argmax(dim=1) == own_B).float().mean()
    return Contrast(loss, accuracy, own.detach().mean(), others)


# N label tokens of a pack, V vocabulary, E examples of a pack


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
        return divergence_of_logits(logits_NV, fixed_NV, pack.view.label_examples_N, len(places))
