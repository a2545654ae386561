"""The focused-learning objective (paper section 3) and the module that computes its terms from one forward pass.

    loss = full * CLM(x) + masked * CLM(x') + contrastive * InfoNCE(z(x), z(x'))
           + consistency * KL(answer given x', answer given x) + distill * KL(teacher, answer given x)
           + attention * KL(target of attention, attention in x)

Each CLM and each KL of answers is the mean over the label tokens of the whole batch, the KL of attention the mean over
its full views. Vanilla fine-tuning is the first term alone, and computes nothing of x'. The second and third line are
ours: losses.ConsistencyLoss; a teacher for questions whose answer may be unknown, which is the base that read the
best-scored chunks alone; and attention taught by the retriever (training/attention.py).
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
from pipeline.training import attention, losses
from pipeline.training.attention import AttentionLoss, AttentionTarget

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
    """Distillation examples of each step; 0: none is read."""
    attention: float = 0.0
    attention_loss: AttentionLoss | None = None
    """Which attention is taught, and what it should be; None where `attention` is 0."""
    attention_target: AttentionTarget | None = None

    @property
    def reads_labels(self) -> bool:
        """Whether some term needs examples with labels."""
        return self.full > 0 or self.reads_masked or (self.attention > 0 and self.batch_questions == 0)

    @property
    def reads_masked(self) -> bool:
        """Whether some term needs the masked view."""
        return self.masked > 0 or self.contrastive > 0 or self.consistency > 0


VANILLA = Objective(full=1.0, masked=0.0, contrastive=0.0, temperature=1.0, representation="last_prompt")


def _focused(settings: Settings) -> Objective:
    contrastive, views = settings.contrastive, settings.views
    objective = Objective(
        full=views.full,
        masked=views.masked,
        contrastive=contrastive.weight,
        temperature=contrastive.temperature,
        representation=contrastive.representation,
        same_document=contrastive.same_document,
        consistency=views.consistency,
    )
    return _with_attention(objective, views.attention, settings)


def _guided(settings: Settings) -> Objective:
    distill, attention_weight = settings.distill, settings.attention.weight
    objective = VANILLA._replace(
        full=distill.labelled,
        distill=distill.weight,
        batch_questions=distill.batch_questions if distill.weight > 0 or attention_weight > 0 else 0,
    )
    return _with_attention(objective, attention_weight, settings)


def _with_attention(objective: Objective, weight: float, settings: Settings) -> Objective:
    if weight == 0:
        return objective
    found = settings.attention
    layers = None if found.layers == "all" else tuple(number - 1 for number in found.layers)
    return objective._replace(
        attention=weight,
        attention_loss=AttentionLoss(layers, found.heads, found.queries),
        attention_target=AttentionTarget(found.target, found.top_k, found.temperature),
    )


OBJECTIVES: dict[methods.Trained, Callable[[Settings], Objective]] = {
    methods.VANILLA: lambda settings: VANILLA,
    methods.FOCUSED: _focused,
    methods.GUIDED: _guided,
}
"""How stage train turns each method's settings into its objective."""


class Encoded(NamedTuple):
    """Loss and representation of each example of one forward pass."""

    loss_E: Tensor
    """Cross-entropy of each example, or its divergence from the teacher, summed over its label tokens, in nats."""
    z_ED: Tensor
    """Representation of each example."""
    attention_E: Tensor
    """Divergence of each example's attention from its target, in nats; 0 where it is not taught."""
    logits_NV: Tensor | None = None
    """Logits at the label tokens, where they are asked for."""


class Encoder(Module):
    """The model as a function from inputs to `Encoded`; this module is replicated or sharded over processes."""

    def __init__(self, network: Module, objective: Objective) -> None:
        super().__init__()
        self.network = network
        self._representation, self._attention = objective.representation, objective.attention_loss

    def forward(self, inputs: ModelInputs, with_labels: bool = True, with_logits: bool = False) -> Encoded:
        """Compute losses and representations; with_labels=False: representations alone; loss_E is 0."""
        device = inputs.input_ids_BL.device
        dtype = causal_lm.head(self.network).weight.dtype
        # The trainable parameters are fp32; over a bf16 base their products are computed in bf16.
        with torch.autocast(device.type, dtype, enabled=dtype == torch.bfloat16):
            read_E = None if with_labels else representation_positions(inputs, self._representation)
            rows = self._attention.rows(inputs) if self._attention is not None and with_labels else None
            hidden_BLD = causal_lm.hidden_states(self.network, inputs, read_E, rows)
            z_ED = represent(hidden_BLD, inputs, self._representation)
            attention_E = z_ED.new_zeros(len(z_ED)) if rows is None else attention.mean_over_layers(rows)
            if not with_labels:
                return Encoded(z_ED.new_zeros(len(z_ED)), z_ED, attention_E)
            logits_NV = causal_lm.logits_at_labels(self.network, hidden_BLD, inputs)
        examples_N, num_examples = inputs.label_examples_N, len(inputs.row_E)
        if inputs.teacher_ids_NK is None or inputs.teacher_log_probs_NK is None:
            loss_E = losses.causal_lm(logits_NV, inputs.labels_N, examples_N, num_examples)
            return Encoded(loss_E, z_ED, attention_E, logits_NV if with_logits else None)
        loss_E = losses.divergence(
            logits_NV, inputs.teacher_ids_NK, inputs.teacher_log_probs_NK, examples_N, num_examples
        )
        return Encoded(loss_E, z_ED, attention_E)


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
