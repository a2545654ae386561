"""The training step of focused learning (paper section 3).

    loss = full * CLM(x) + masked * CLM(x') + weight * InfoNCE(z(x), z(x'))

Vanilla fine-tuning is the same step with the full view alone: masked = weight = 0 computes nothing of x'.
"""

# B examples, L tokens, D hidden, N label tokens, V vocabulary

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from pipeline.core import losses, model
from pipeline.core.batching import View

Representation = Literal["last_prompt", "mean", "eos"]


class Objective(NamedTuple):
    """Weights of the three parts, and how views are compared."""

    full: float
    masked: float
    contrastive: float
    temperature: float
    representation: Representation

    @property
    def reads_masked(self) -> bool:
        """Some part needs the masked view."""
        return self.masked > 0 or self.contrastive > 0


VANILLA = Objective(full=1.0, masked=0.0, contrastive=0.0, temperature=1.0, representation="last_prompt")


class StepOutput(NamedTuple):
    """The loss to differentiate, and scalars to log by name (unweighted)."""

    loss: Tensor
    logged: dict[str, Tensor]


def step(network: torch.nn.Module, full: View, masked: View | None, objective: Objective) -> StepOutput:
    """One forward of each view that the objective reads; `masked` may be None when it does not read that one."""
    hidden_BLD = model.hidden_states(network, full)
    clm_full = losses.causal_lm(model.logits_at_labels(network, hidden_BLD, full), full.labels_N)
    loss = objective.full * clm_full
    logged = {"clm_full": clm_full}
    if objective.reads_masked:
        assert masked is not None
        hidden_masked_BLD = model.hidden_states(network, masked)
        clm_masked = losses.causal_lm(model.logits_at_labels(network, hidden_masked_BLD, masked), masked.labels_N)
        contrast = losses.info_nce(
            represent(hidden_BLD, full, objective.representation),
            represent(hidden_masked_BLD, masked, objective.representation),
            objective.temperature,
        )
        loss = loss + objective.masked * clm_masked + objective.contrastive * contrast.loss
        logged |= {
            "clm_masked": clm_masked,
            "info_nce": contrast.loss,
            "in_batch_accuracy": contrast.in_batch_accuracy,
            "alignment": contrast.alignment,
            "alignment_others": contrast.alignment_others,
        }
    return StepOutput(loss, {name: value.detach() for name, value in logged.items()})


def represent(hidden_BLD: Tensor, view: View, representation: Representation) -> Tensor:
    """One vector per view, shape (B, D), from the last layer's hidden states.

    The default is the last prompt token: it has read everything but the answer, so that two views cannot be matched
    by the answer they share.
    """
    rows_B = torch.arange(len(hidden_BLD), device=hidden_BLD.device)
    if representation == "last_prompt":
        return hidden_BLD[rows_B, view.prompt_end_B - 1]
    if representation == "eos":
        return hidden_BLD[rows_B, view.length_B - 1]
    places_L = torch.arange(hidden_BLD.shape[1], device=hidden_BLD.device)
    prompt_BL1 = (places_L[None, :] < view.prompt_end_B[:, None]).unsqueeze(-1)
    return (hidden_BLD * prompt_BL1).sum(dim=1) / view.prompt_end_B[:, None]
