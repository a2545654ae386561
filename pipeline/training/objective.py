"""The objective of focused learning (paper section 3), and what a forward gives towards it.

    loss = full * CLM(x) + masked * CLM(x') + weight * InfoNCE(z(x), z(x'))
           + consistency * KL(answer over x', answer over x) + taught * KL(teacher, answer over x of other questions)

Each CLM, and KL, is the mean over the label tokens of the whole batch. Vanilla fine-tuning is the same with the full
view alone: masked = weight = consistency = 0 computes nothing of x'. The second line is ours: `consistency.py`, and a
teacher for questions whose answer need not be known, the base, which read the best-scored chunks alone.
"""

# B rows, L tokens, E examples of the rows, D hidden, N label tokens, V vocabulary

from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from pipeline.model import causal_lm
from pipeline.model.collator import View
from pipeline.training import losses

Representation = Literal["last_prompt", "mean", "eos"]


class Objective(NamedTuple):
    """Weights of the parts, and how views are compared."""

    full: float
    masked: float
    contrastive: float
    temperature: float
    representation: Representation
    same_document: Literal["mask", "keep"] = "mask"
    """Whether two examples over one context are left out of the contrastive loss, or repel each other."""
    taught: float = 0.0
    consistency: float = 0.0

    @property
    def reads_masked(self) -> bool:
        """Some part needs the masked view."""
        return self.masked > 0 or self.contrastive > 0 or self.consistency > 0


VANILLA = Objective(full=1.0, masked=0.0, contrastive=0.0, temperature=1.0, representation="last_prompt")


class Encoded(NamedTuple):
    """What the losses are made of."""

    clm_E: Tensor
    """Cross-entropy of each example, summed over its label tokens, in nats; of a taught one its divergence from the
    teacher."""
    z_ED: Tensor
    """Representation of each example."""
    logits_NV: Tensor | None = None
    """At the label tokens, where they are asked for."""


class Encoder(Module):
    """The model as a function from views to `Encoded`: the module that is replicated or sharded over devices."""

    def __init__(self, network: Module, representation: Representation) -> None:
        super().__init__()
        self.network = network
        self._representation = representation

    def forward(self, view: View, with_labels: bool = True, with_logits: bool = False) -> Encoded:
        """Without labels, where representations alone are asked for, the cross-entropies are 0."""
        device = view.input_ids_BL.device
        number_format = causal_lm.unwrap(self.network).lm_head.weight.dtype
        # The trainable parameters are fp32; over a bf16 base their products are taken in bf16.
        with torch.autocast(device.type, number_format, enabled=number_format == torch.bfloat16):
            read_E = None if with_labels else representation_positions(view, self._representation)
            hidden_BLD = causal_lm.hidden_states(self.network, view, read_E)
            z_ED = represent(hidden_BLD, view, self._representation)
            if not with_labels:
                return Encoded(z_ED.new_zeros(len(z_ED)), z_ED)
            logits_NV = causal_lm.logits_at_labels(self.network, hidden_BLD, view)
        examples_N, num_examples = view.label_examples_N, len(view.row_E)
        if view.taught_ids_NK is None or view.taught_log_probs_NK is None:
            clm_E = losses.causal_lm(logits_NV, view.labels_N, examples_N, num_examples)
            return Encoded(clm_E, z_ED, logits_NV if with_logits else None)
        divergence_E = losses.divergence(
            logits_NV, view.taught_ids_NK, view.taught_log_probs_NK, examples_N, num_examples
        )
        return Encoded(divergence_E, z_ED)


def represent(hidden_BLD: Tensor, view: View, representation: Representation) -> Tensor:
    """One vector per example, shape (E, D), from the last layer's hidden states.

    The default is the last prompt token: it has read everything but the answer, so that two views cannot be matched
    by the answer they share.
    """
    positions_E = representation_positions(view, representation)
    if positions_E is not None:
        return hidden_BLD[view.row_E, positions_E]
    places = torch.stack([view.row_E, view.num_shared_E, view.start_E, view.prompt_end_E]).T.tolist()
    return torch.stack(
        [
            (hidden_BLD[row, :num_shared].sum(dim=0) + hidden_BLD[row, start:end].sum(dim=0))
            / (num_shared + end - start)
            for row, num_shared, start, end in places
        ]
    )


def representation_positions(view: View, representation: Representation) -> Tensor | None:
    """The token of each example whose hidden state represents it; None where that is the mean of several."""
    return {"last_prompt": view.prompt_end_E - 1, "eos": view.end_E - 1, "mean": None}[representation]
