"""The focused-learning objective (paper section 3) and the module that computes its terms from one forward pass.

    loss = full * CLM(x) + masked * CLM(x') + contrastive * InfoNCE(z(x), z(x'))
           + consistency * KL(answer given x', answer given x) + distill * KL(teacher, answer given x)

Each CLM and each KL is the mean over the label tokens of the whole batch. Vanilla fine-tuning is the first term alone,
and computes nothing of x'. The second line is ours: losses.ConsistencyLoss, and a teacher for questions whose answer
may be unknown. The teacher is the base that read the best-scored chunks alone.
"""

# B rows, L tokens, E examples of the rows, D hidden, N label tokens, V vocabulary

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import Module

from pipeline.model import causal_lm
from pipeline.model.collator import ModelInputs
from pipeline.runtime import methods
from pipeline.runtime.settings import Settings
from pipeline.training import losses

Representation = Literal["last_prompt", "mean", "eos"]


class Objective(NamedTuple):
    """The weight of each term, and how views are compared."""

    full: float
    masked: float
    contrastive: float
    temperature: float
    representation: Representation
    same_document: Literal["mask", "keep"] = "mask"
    """Whether two examples over one context are left out of the contrastive loss, or repel each other."""
    consistency: float = 0.0
    distill: float = 0.0
    batch_questions: int = 0
    """Distillation examples of each step."""

    @property
    def reads_labels(self) -> bool:
        """Whether some term needs examples with labels."""
        return self.full > 0 or self.reads_masked

    @property
    def reads_masked(self) -> bool:
        """Whether some term needs the masked view."""
        return self.masked > 0 or self.contrastive > 0 or self.consistency > 0


VANILLA = Objective(full=1.0, masked=0.0, contrastive=0.0, temperature=1.0, representation="last_prompt")


def _focused(settings: Settings) -> Objective:
    contrastive, views = settings.contrastive, settings.views
    return Objective(
        full=views.full,
        masked=views.masked,
        contrastive=contrastive.weight,
        temperature=contrastive.temperature,
        representation=contrastive.representation,
        same_document=contrastive.same_document,
        consistency=views.consistency,
    )


def _distill(settings: Settings) -> Objective:
    distill = settings.distill
    return VANILLA._replace(full=distill.labelled, distill=distill.weight, batch_questions=distill.batch_questions)


OBJECTIVES: dict[methods.Trained, Callable[[Settings], Objective]] = {
    methods.VANILLA: lambda settings: VANILLA,
    methods.FOCUSED: _focused,
    methods.DISTILL: _distill,
}
"""How stage train turns each method's settings into its objective."""


class Encoded(NamedTuple):
    """Loss and representation of each example of one forward pass."""

    loss_E: Tensor
    """Cross-entropy of each example, or its divergence from the teacher, summed over its label tokens, in nats."""
    z_ED: Tensor
    """Representation of each example."""
    logits_NV: Tensor | None = None
    """Logits at the label tokens, where they are asked for."""


class Encoder(Module):
    """The model as a function from inputs to `Encoded`; this module is replicated or sharded over processes."""

    def __init__(self, network: Module, representation: Representation) -> None:
        super().__init__()
        self.network = network
        self._representation = representation

    def forward(self, inputs: ModelInputs, with_labels: bool = True, with_logits: bool = False) -> Encoded:
        """Compute losses and representations; with_labels=False: representations alone; loss_E is 0."""
        device = inputs.input_ids_BL.device
        dtype = causal_lm.unwrap(self.network).lm_head.weight.dtype
        # The trainable parameters are fp32; over a bf16 base their products are computed in bf16.
        with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
            read_E = None if with_labels else representation_positions(inputs, self._representation)
            hidden_BLD = causal_lm.hidden_states(self.network, inputs, read_E)
            z_ED = represent(hidden_BLD, inputs, self._representation)
            if not with_labels:
                return Encoded(z_ED.new_zeros(len(z_ED)), z_ED)
            logits_NV = causal_lm.logits_at_labels(self.network, hidden_BLD, inputs)
        examples_N, num_examples = inputs.label_examples_N, len(inputs.row_E)
        if inputs.teacher_ids_NK is None or inputs.teacher_log_probs_NK is None:
            loss_E = losses.causal_lm(logits_NV, inputs.labels_N, examples_N, num_examples)
            return Encoded(loss_E, z_ED, logits_NV if with_logits else None)
        loss_E = losses.divergence(
            logits_NV, inputs.teacher_ids_NK, inputs.teacher_log_probs_NK, examples_N, num_examples
        )
        return Encoded(loss_E, z_ED)


def represent(hidden_BLD: Tensor, inputs: ModelInputs, representation: Representation) -> Tensor:
    """Return one vector per example, shape (E, D), from the last layer's hidden states.

    The default is the last prompt token: it has read everything but the answer, so two views cannot be matched by the
    answer they share.
    """
    positions_E = representation_positions(inputs, representation)
    if positions_E is not None:
        return hidden_BLD[inputs.row_E, positions_E]
    spans = torch.stack([inputs.row_E, inputs.num_shared_E, inputs.start_E, inputs.prompt_end_E]).T.tolist()
    return torch.stack(
        [
            (hidden_BLD[row, :num_shared].sum(dim=0) + hidden_BLD[row, start:end].sum(dim=0))
            / (num_shared + end - start)
            for row, num_shared, start, end in spans
        ]
    )


def representation_positions(inputs: ModelInputs, representation: Representation) -> Tensor | None:
    """Return the position of the token that represents each example; None for the mean of several."""
    return {"last_prompt": inputs.prompt_end_E - 1, "eos": inputs.end_E - 1, "mean": None}[representation]
