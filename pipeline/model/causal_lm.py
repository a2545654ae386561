"""The causal language model: its vocabulary rows, layer windows, hidden states and logits."""

# B rows, L tokens, E examples of the rows, D hidden, N label tokens, V vocabulary

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Module
from transformers import PreTrainedModel

from pipeline.model import attention_mask
from pipeline.model.attention_rows import AttentionRows
from pipeline.model.collator import ModelInputs
from pipeline.runtime.errors import ConfigError

_FULL, _SLIDING = "full_attention", "sliding_attention"


def resize(network: PreTrainedModel, vocab_size: int) -> None:
    """Add embedding rows for tokens that the tokenizer added; a vocabulary that is larger already stays as it is.

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


def unwrap(network: Module) -> Any:
    """Return the transformers model inside a PEFT adapter, whose layers the adapter has replaced in place."""
    return network.get_base_model() if isinstance(network, PeftModel) else network


def windows(config: Any) -> dict[str, int | None]:
    """Return the attention window of each kind of layer, in tokens; None: full attention.

    Raises:
        ConfigError: the model has layers of another kind, such as linear attention.
    """
    window = getattr(config, "sliding_window", None)
    kinds = getattr(config, "layer_types", None) or [_FULL if window is None else _SLIDING]
    if unknown := sorted(set(kinds) - {_FULL, _SLIDING}):
        raise ConfigError(
            f"the base has layers of kind {', '.join(unknown)}; questions can share a context with layers of kind "
            f"{_FULL} and {_SLIDING} only; set model.source to such a model"
        )
    return {kind: window if kind == _SLIDING else None for kind in kinds}


def hidden_states(
    network: Module, inputs: ModelInputs, positions_E: Tensor | None = None, attention: AttentionRows | None = None
) -> Tensor:
    """Return the hidden states of the last layer, after the final norm: shape (B, L, D).

    With `positions_E`, only the hidden state at that position of each example is right, and the forward is cheaper:
    the last layer's MLP leaves out all other positions. `attention` reads the attention of its chosen tokens.
    """
    whole = unwrap(network)
    with nullcontext() if positions_E is None else _mlp_only_at(whole.model.layers[-1].mlp, inputs, positions_E):
        output = whole.model(
            input_ids=inputs.input_ids_BL,
            attention_mask=inputs.mask_BL if inputs.segment_BL is None else _tree_masks(whole, inputs),
            position_ids=inputs.position_ids_BL,
            use_cache=False,
            **({} if attention is None else {"attention_rows": attention}),
        )
    hidden: Tensor = output.last_hidden_state
    return hidden


@contextmanager
def _mlp_only_at(mlp: Module, inputs: ModelInputs, positions_E: Tensor) -> Iterator[None]:
    def chosen(_: Module, hidden: tuple[Tensor]) -> tuple[Tensor]:
        return (hidden[0][inputs.row_E, positions_E],)

    def in_place(_: Module, __: tuple[Tensor], made_ED: Tensor) -> Tensor:
        made_BLD = made_ED.new_zeros(*inputs.input_ids_BL.shape, made_ED.shape[-1])
        return made_BLD.index_put((inputs.row_E, positions_E), made_ED)

    handles = (mlp.register_forward_pre_hook(chosen), mlp.register_forward_hook(in_place))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tree_masks(whole: Any, inputs: ModelInputs) -> Any:
    """Return the mask of each kind of layer, or one for all. transformers passes a 4-dimensional mask on as it is."""
    implementation = whole.config._attn_implementation
    added_dtype = whole.lm_head.weight.dtype if implementation == "eager" else None
    masks = {
        kind: attention_mask.block_mask(inputs, window)
        if implementation == "flex_attention"
        else attention_mask.tree_mask(inputs, window, added_dtype)
        for kind, window in windows(whole.config).items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def logits_at_labels(network: Module, hidden_BLD: Tensor, inputs: ModelInputs) -> Tensor:
    """Return the logits at the label positions only, shape (N, V)."""
    hidden_ND = hidden_BLD[inputs.row_E[inputs.label_examples_N], inputs.label_positions_N]
    logits: Tensor = unwrap(network).lm_head(hidden_ND)
    return logits
