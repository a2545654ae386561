"""The losses: causal LM and InfoNCE (paper section 3), divergence from a teacher, and consistency (both ours).

The paper pulls the two views together in one vector (InfoNCE), which in-batch negatives can achieve by the looks of
context and question alone. The consistency loss pulls the answers together instead: at each label token, the KL
divergence from the model's own distribution given the masked view (stop-gradient) to that given the full view.
"""

# B pairs, E examples of a micro-batch, N label tokens, V vocabulary, D hidden, K likeliest tokens of the teacher

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.training.dataset import MicroBatch


def causal_lm(logits_NV: Tensor, labels_N: Tensor, examples_N: Tensor, num_examples: int) -> Tensor:
    """Return each example's cross-entropy, shape (E,), summed over its label tokens, in nats, at least in fp32."""
    token_N = functional.cross_entropy(at_least_fp32(logits_NV), labels_N, reduction="none")
    return _sum_by_example(token_N, examples_N, num_examples)


def divergence(
    logits_NV: Tensor, top_ids_NK: Tensor, top_log_probs_NK: Tensor, examples_N: Tensor, num_examples: int
) -> Tensor:
    """Return the KL divergence from teacher to model, shape (E,), summed over label tokens, in nats, at least in fp32.

    Only the K likeliest tokens of the teacher's distribution are known. All others count as one outcome, so this is a
    lower bound, and exact for K = V.
    """
    logits_NV = at_least_fp32(logits_NV)
    log_q_NK = functional.log_softmax(logits_NV, dim=-1).gather(1, top_ids_NK)
    log_p_NK = top_log_probs_NK.to(logits_NV.dtype)
    p_NK = log_p_NK.exp()
    tiny = torch.finfo(logits_NV.dtype).eps
    rest_p_N = (1 - p_NK.sum(dim=1)).clamp(min=0)
    rest_q_N = (1 - log_q_NK.exp().sum(dim=1)).clamp(min=tiny)
    rest_N = torch.xlogy(rest_p_N, rest_p_N) - rest_p_N * rest_q_N.log()
    return _sum_by_example((p_NK * (log_p_NK - log_q_NK)).sum(dim=1) + rest_N, examples_N, num_examples)


def divergence_of_logits(logits_NV: Tensor, fixed_NV: Tensor, examples_N: Tensor, num_examples: int) -> Tensor:
    """Return the KL divergence from softmax(fixed) to softmax(logits), shape (E,), summed over label tokens.

    In nats, at least in fp32.
    """
    log_p_NV = functional.log_softmax(fixed_NV.to(at_least_fp32(logits_NV).dtype), dim=-1)
    log_q_NV = functional.log_softmax(at_least_fp32(logits_NV), dim=-1)
    token_N = functional.kl_div(log_q_NV, log_p_NV, log_target=True, reduction="none").sum(dim=1)
    return _sum_by_example(token_N, examples_N, num_examples)


class ConsistencyLoss:
    """The consistency loss of one step; the masked views' micro-batches must come before those of the full views."""

    def __init__(self, num_own: int) -> None:
        self._num_own = num_own
        self._fixed_logits_of: dict[int, Tensor] = {}

    def divergence(self, micro_batch: MicroBatch, logits_NV: Tensor) -> Tensor:
        """Return each example's divergence, shape (E,), summed over its label tokens, in nats.

        It is 0 for masked views, whose logits are kept for the full views to come.
        """
        places = micro_batch.places_E.tolist()
        examples_N = micro_batch.inputs.label_examples_N
        if (micro_batch.places_E >= self._num_own).all():  # masked views
            num_labels_E = torch.bincount(examples_N, minlength=len(places)).tolist()
            fixed = torch.split(logits_NV.detach(), num_labels_E)
            self._fixed_logits_of |= {place - self._num_own: one for place, one in zip(places, fixed, strict=True)}
            return at_least_fp32(logits_NV.new_zeros(len(places)))
        fixed_NV = torch.cat([self._fixed_logits_of[place] for place in places])
        return divergence_of_logits(logits_NV, fixed_NV, examples_N, len(places))


class Contrast(NamedTuple):
    """The contrastive loss and the scalars that are logged beside it."""

    loss: Tensor
    in_batch_accuracy: Tensor
    """Share of full views whose nearest masked view is their own."""
    alignment: Tensor
    """Mean cosine of the two views of one example."""
    alignment_others: Tensor
    """Mean cosine of views of different examples."""


def info_nce(z_full_BD: Tensor, z_masked_BD: Tensor, temperature: float, excluded_BB: Tensor | None = None) -> Contrast:
    """Return the symmetric InfoNCE: each full view attracts its own masked view and repels the others', and vice versa.

    Representations need no normalisation; cosine similarities and the loss are computed at least in fp32. Pairs that
    are `excluded_BB` (symmetric, never the diagonal) neither attract nor repel.
    """
    z_full_BD = functional.normalize(at_least_fp32(z_full_BD), dim=-1)
    z_masked_BD = functional.normalize(z_masked_BD.to(z_full_BD.dtype), dim=-1)
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


def at_least_fp32(tensor: Tensor) -> Tensor:
    """Return the tensor in fp32, or as it is when its type is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _sum_by_example(token_N: Tensor, examples_N: Tensor, num_examples: int) -> Tensor:
    return token_N.new_zeros(num_examples).index_add(0, examples_N, token_N)
