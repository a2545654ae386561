"""The LoRA adapter: which parameters it trains, what is saved of it, and how it is merged into the base.

What an adapter trains of the embedding is a choice (`lora.embedding`). PEFT matches names by their ends, so a test
holds the exact set of trainable parameters of every choice, for models whose lm_head is tied to the embedding too.
"""

import warnings
from collections.abc import Mapping
from typing import Any, Literal

from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import Module, Parameter
from transformers import PreTrainedModel

from pipeline.model.causal_lm import unwrap

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
NORMS = ["input_layernorm", "post_attention_layernorm", "model.norm"]
EMBEDDING = "embed_tokens"
TIED = "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter"


def add_adapter(
    network: PreTrainedModel,
    *,
    rank: int,
    alpha: int,
    dropout: float,
    embedding: Literal["lora", "mask_token", "full", "none"],
    norms: bool,
    mask_id: int,
) -> PeftModel:
    """Add LoRA to the query, key, value and output projections; with `norms`, the norms are trained whole (paper).

    lm_head is frozen, also where it is tied to the embedding; only `mask_token` moves the tied row with the other.
    Trainable parameters are fp32 whatever the base's type, because small steps vanish in bf16.

    Args:
        embedding: what is trained of the input embedding. `lora`: LoRA on all of it (paper). `mask_token`: the row of
            `mask_id` alone; where no view contains <mask>, its gradient is zero and it stays as it is. `full`: the
            whole matrix. `none`: nothing.
    """
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=[*ATTENTION, *([EMBEDDING] if embedding == "lora" else [])],
        modules_to_save=[*(NORMS if norms else []), *([EMBEDDING] if embedding == "full" else [])] or None,
        trainable_token_indices=[mask_id] if embedding == "mask_token" else None,
    )
    with warnings.catch_warnings():
        # A tied lm_head is meant to stay as it is, just like an untied one; `merge` unties it.
        warnings.filterwarnings("ignore", TIED, UserWarning)
        adapted = get_peft_model(network, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def state_to_save(adapted: PeftModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Return the model's state (or the given one) in the type of the frozen weights: half the bytes for a bf16 base.

    PEFT loads norms, embedding and token rows into copies of the base's own modules, so it rounds them to the base's
    type anyway. The LoRA matrices lose at most a 2^-9th of each value, as in a forward in bf16. Evaluation uses the
    saved values. Checkpoints keep the fp32 state instead.
    """
    dtype = unwrap(adapted).lm_head.weight.dtype
    found = adapted.state_dict() if state is None else state
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def saves_base_embedding(adapted: PeftModel) -> bool:
    """Whether the saved adapter must hold the base's embedding, because LoRA was trained on top of its <mask> row."""
    config: Any = adapted.peft_config["default"]
    return EMBEDDING in config.target_modules


def merge(adapted: PeftModel) -> PreTrainedModel:
    """Merge the adapter into the base's weights, in place, and return the plain transformers model.

    Where the embedding was trained, a tied lm_head becomes a matrix of its own, because it must not move with it.
    """
    network = unwrap(adapted)
    config: Any = adapted.peft_config["default"]
    trained = EMBEDDING in (*config.target_modules, *(config.modules_to_save or ()))
    if network.config.tie_word_embeddings and trained:
        network.lm_head.weight = Parameter(network.lm_head.weight.detach().clone(), requires_grad=False)
        network.config.tie_word_embeddings = False
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged


def parameter_groups(network: Module) -> tuple[list[Parameter], list[Parameter]]:
    """Return the trainable parameters: first LoRA on the attention projections, then embedding and norms."""
    attention: list[Parameter] = []
    rest: list[Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (attention if any(part in name for part in ATTENTION) else rest).append(parameter)
    return attention, rest
