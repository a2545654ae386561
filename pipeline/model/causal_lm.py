"""The causal language model: vocabulary rows for <mask> and <pad>, the LoRA adapter, hidden states and logits.

What an adapter trains of the embedding is a choice (`lora.embedding`). PEFT matches names by their ends, so a test
holds the exact set of trainable parameters of every choice, for models whose lm_head is tied to the embedding too.
"""

# B examples, L tokens, D hidden, N label tokens, V vocabulary

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from torch.nn import Module, Parameter
from transformers import PreTrainedModel

from pipeline.model import collator
from pipeline.model.collator import View
from pipeline.runtime.errors import ConfigError

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
_FULL, _SLIDING = "full_attention", "sliding_attention"
NORMS = ["input_layernorm", "post_attention_layernorm", "model.norm"]
EMBEDDING = "embed_tokens"
TIED = "Model has `tie_word_embeddings=True` and a tied layer is part of the adapter"


def resize(network: PreTrainedModel, vocab_size: int) -> None:
    """Give the model rows for tokens that the tokenizer added; a larger vocabulary than needed is left as it is.

    New rows are the mean of the old ones: the same on every machine and after every reload, unlike transformers'
    default, which draws them.
    """
    embedding: Any = network.get_input_embeddings()
    num_rows = int(embedding.weight.shape[0])
    if vocab_size <= num_rows:
        return
    network.resize_token_embeddings(vocab_size, mean_resizing=False)
    tables: Any = (network.get_input_embeddings, network.get_output_embeddings)
    with torch.no_grad():
        for layer in (table() for table in tables):
            layer.weight[num_rows:] = layer.weight[:num_rows].float().mean(dim=0).to(layer.weight.dtype)


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
    """LoRA on query, key, value and output projections; norms are trained whole [P].

    `embedding` says what is trained of the input embedding:
        lora: LoRA on all of it [P].
        mask_token: the row of `mask_id` alone. Where no view contains <mask> (vanilla training, masked views without
            mask tokens), its gradient is zero and it stays as it is.
        full: the whole matrix.
        none: nothing.
    lm_head is frozen, also where it is tied to the embedding; only `mask_token` moves the tied row with the other.

    Trainable parameters are fp32 whatever the base's type: small steps vanish in bf16.
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
        # As meant: a tied lm_head stays as it is, just as an untied one, and `merge` unties it.
        warnings.filterwarnings("ignore", TIED, UserWarning)
        adapted = get_peft_model(network, config)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def state_to_save(adapted: PeftModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapted model's `state`, or what it holds itself, every tensor in the type of the frozen weights: of a bf16
    base that is half the bytes.

    Rounding loses nothing that would be used: PEFT loads norms, embedding and token rows into copies of the base's own
    modules, so it rounds them to the base's type anyway; of the LoRA matrices it takes at most a 2^-9th of each value,
    as a forward in bf16 does. What is evaluated is what was saved. To go on training, keep the fp32 state instead.
    """
    dtype = unwrap(adapted).lm_head.weight.dtype
    found = adapted.state_dict() if state is None else state
    return {name: tensor.to(dtype) for name, tensor in found.items()}


def saves_base_embedding(adapted: PeftModel) -> bool:
    """Whether the base's embedding belongs into the saved adapter: LoRA was trained on top of its <mask> row."""
    config: Any = adapted.peft_config["default"]
    return EMBEDDING in config.target_modules


def merge(adapted: PeftModel) -> PreTrainedModel:
    """The adapter's changes added to the base's weights, in place; the network is a plain transformers model after it.

    A tied lm_head becomes a matrix of its own where the embedding alone was trained: it must not move with it.
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
    """The trainable parameters: those of LoRA on the attention projections; those of embedding and norms."""
    attention: list[Parameter] = []
    rest: list[Parameter] = []
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            (attention if any(part in name for part in ATTENTION) else rest).append(parameter)
    return attention, rest


def unwrap(network: Module) -> Any:
    """The transformers model inside an adapter, whose layers the adapter has replaced in place."""
    return network.get_base_model() if isinstance(network, PeftModel) else network


def windows(config: Any) -> dict[str, int | None]:
    """The window of each kind of layer, in tokens; None: sees everything before it.

    Raises:
        ConfigError: the model has layers that attend in another way than to everything or to a window.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [_FULL if window is None else _SLIDING]
    if unknown := sorted(set(kinds) - {_FULL, _SLIDING}):
        raise ConfigError(
            f"the base has layers of kind {', '.join(unknown)}; questions can share a context with layers of kind "
            f"{_FULL} and {_SLIDING} only; set model.source to such a model"
        )
    return {kind: window if kind == _SLIDING else None for kind in kinds}


def hidden_states(network: Module, view: View, positions_E: Tensor | None = None) -> Tensor:
    """Hidden states of the last layer, after the final norm: shape (B, L, D).

    Where `positions_E` is given, they are right at that position of each example alone, and cheaper: nothing reads
    what the last layer's MLP makes of the others.
    """
    whole = unwrap(network)
    with nullcontext() if positions_E is None else _mlp_only_at(whole.model.layers[-1].mlp, view, positions_E):
        output = whole.model(
            input_ids=view.input_ids_BL,
            attention_mask=view.mask_BL if view.branch_BL is None else _tree_masks(whole, view),
            position_ids=view.position_ids_BL,
            use_cache=False,
        )
    hidden: Tensor = output.last_hidden_state
    return hidden


@contextmanager
def _mlp_only_at(mlp: Module, view: View, positions_E: Tensor) -> Iterator[None]:
    def chosen(_: Module, hidden: tuple[Tensor]) -> tuple[Tensor]:
        return (hidden[0][view.row_E, positions_E],)

    def in_place(_: Module, __: tuple[Tensor], made_ED: Tensor) -> Tensor:
        made_BLD = made_ED.new_zeros(*view.input_ids_BL.shape, made_ED.shape[-1])
        return made_BLD.index_put((view.row_E, positions_E), made_ED)

    handles = (mlp.register_forward_pre_hook(chosen), mlp.register_forward_hook(in_place))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tree_masks(whole: Any, view: View) -> Any:
    """The mask of each kind of layer, or that of all; transformers passes a mask of four dimensions on as it is."""
    implementation = whole.config._attn_implementation
    added_dtype = whole.lm_head.weight.dtype if implementation == "eager" else None
    masks = {
        kind: collator.block_mask(view, window)
        if implementation == "flex_attention"
        else collator.tree_mask(view, window, added_dtype)
        for kind, window in windows(whole.config).items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def logits_at_labels(network: Module, hidden_BLD: Tensor, view: View) -> Tensor:
    """Logits at the label positions only, shape (N, V): never B x L x V."""
    hidden_ND = hidden_BLD[view.row_E[view.label_examples_N], view.label_positions_N]
    logits: Tensor = unwrap(network).lm_head(hidden_ND)
    return logits
