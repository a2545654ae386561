"""The causal language model: its vocabulary rows, layers and their windows, hidden states and logits.

Nothing here knows how a family of models names its parts, or what it does to its logits: all of it is the model's own.
"""

# B rows, L tokens, E examples of the rows, D hidden, N label tokens, V vocabulary

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import Linear, Module, ModuleList
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast
from transformers.pytorch_utils import Conv1D

from pipeline.model import attention_mask, attention_rows
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


def head(network: Module) -> Any:
    """Return the layer that makes the logits."""
    return unwrap(network).get_output_embeddings()


def layers(network: Module) -> list[Any]:
    """Return the layers of the model in their order; none where it has no list of as many as its configuration says."""
    whole = unwrap(network)
    found = (module for module in whole.base_model.modules() if isinstance(module, ModuleList))
    return next((list(each) for each in found if len(each) == whole.config.num_hidden_layers), [])


def set_window(config: Any, window: int | Literal["own"] | None) -> None:
    """Give the layers that have a window this one, in tokens; `own`: the one they have; None: they see all tokens.

    Raises:
        ConfigError: there are tokens, and no layer has a window.
    """
    kinds = getattr(config, "layer_types", None)
    has_window = hasattr(config, "sliding_window") and (kinds is None or _SLIDING in kinds)
    if window == "own" or (window is None and not has_window):
        return
    if not has_window:
        raise ConfigError(
            f"model.sliding_window is {window}, but no layer of this {config.model_type} model has a window; set it to "
            "own"
        )
    # Where the window depends on the kind of layer, so may the rotary positions: the kinds stay.
    config.sliding_window = config.max_position_embeddings if window is None and kinds is not None else window


class _Listener:
    """Stands in the place of AttentionRows, and notes the layers that call it."""

    def __init__(self) -> None:
        self.layers: set[int] = set()

    def read(self, layer: int, *_: Any) -> None:
        self.layers.add(layer)


def num_positions(config: Any) -> float:
    """Return the number of rows in the model's table of positions; infinity where it computes them (rotary)."""
    is_rotary = getattr(config, "rope_parameters", None)
    return math.inf if is_rotary else getattr(config, "max_position_embeddings", None) or math.inf


def length_warning(config: Any, max_tokens: int) -> str:
    """Tell that rows of `max_tokens` are longer than those that the model was trained on; empty: they are not.

    Raises:
        ConfigError: the model has fewer positions, so that it cannot read them.
    """
    if max_tokens > (limit := num_positions(config)):
        raise ConfigError(
            f"model.max_tokens is {max_tokens:,}, but this {config.model_type} model has a table of {limit:,} "
            f"positions; allowed is 1 to {limit:,}: lower it, or choose a base with rotary positions"
        )
    trained_on = getattr(config, "max_position_embeddings", None) or math.inf
    rope = getattr(config, "rope_parameters", None) or {}
    of_kinds = [scaling for scaling in rope.values() if isinstance(scaling, dict)] or [rope]
    scaled = [
        (each.get("original_max_position_embeddings") or trained_on) * (each.get("factor") or 1) for each in of_kinds
    ]
    if max_tokens <= (trained_on := max(trained_on, *scaled)):
        return ""
    return (
        f"WARNING: model.max_tokens {max_tokens:,} is longer than the {trained_on:,.0f} tokens that the base was "
        "trained on"
    )


def lets_attention_be_read(skeleton: PreTrainedModel) -> bool:
    """Return whether all layers hand on to their attention what the model gets; it is on the meta device."""
    listener = _Listener()
    ids_1L = torch.zeros((1, 2), dtype=torch.long, device=skeleton.device)
    # With mask and positions given, transformers looks at no values, which are none on this device.
    mask_11LL = torch.zeros((1, 1, 2, 2), device=skeleton.device)
    read = _with_attention(skeleton, ids_1L, listener)
    skeleton.base_model(input_ids=ids_1L, attention_mask=mask_11LL, use_cache=False, **read)
    return listener.layers == set(range(skeleton.config.num_hidden_layers))


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
    with _mlp_only_at(whole, inputs, positions_E):
        output = whole.base_model(
            input_ids=inputs.input_ids_BL,
            attention_mask=inputs.mask_BL if inputs.segment_BL is None else _tree_masks(whole, inputs),
            use_cache=False,
            **_with_attention(whole, inputs.position_ids_BL, attention),
        )
    hidden: Tensor = output.last_hidden_state
    return hidden


def _with_attention(whole: Any, position_ids_BL: Tensor, attention: Any) -> dict[str, Any]:
    """Return the position ids, and what is to read the attention of the forward, as its arguments."""
    if attention is None:
        return {"position_ids": position_ids_BL}
    carrying = attention_rows.carry(attention, position_ids_BL, layers(whole))
    return {"position_ids": carrying, "attention_rows": attention}


@contextmanager
def _mlp_only_at(whole: Any, inputs: ModelInputs, positions_E: Tensor | None) -> Iterator[None]:
    """Let the last layer's MLP see these positions alone, unless it is one of experts."""
    mlp = getattr(layers(whole)[-1], "mlp", None)
    if positions_E is None or mlp is None or not _is_dense(mlp):
        yield
        return

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


def _is_dense(mlp: Module) -> bool:
    """Return whether the MLP computes each token with all of its weights, which are those of linear layers."""
    with_weights = (module for module in mlp.modules() if any(True for _ in module.parameters(recurse=False)))
    return all(isinstance(module, Linear | Conv1D) for module in with_weights)


def _tree_masks(whole: Any, inputs: ModelInputs) -> Any:
    """Return the mask of each kind of layer, or one for all. transformers passes a 4-dimensional mask on as it is."""
    implementation = whole.config._attn_implementation
    added_dtype = head(whole).weight.dtype if implementation == "eager" else None
    masks = {
        kind: attention_mask.block_mask(inputs, window)
        if implementation == "flex_attention"
        else attention_mask.tree_mask(inputs, window, added_dtype)
        for kind, window in windows(whole.config).items()
    }
    return masks if len(masks) > 1 else next(iter(masks.values()))


def logits_at_labels(network: Module, hidden_BLD: Tensor, inputs: ModelInputs) -> Tensor:
    """Return the logits at the label positions only, shape (N, V)."""
    return logits(network, hidden_BLD[inputs.row_E[inputs.label_examples_N], inputs.label_positions_N])


class _Hidden(MoeModelOutputWithPast):
    """Stands for the output of the layers; some families also ask for these."""

    cross_attentions = shared_kv_states = None


class _Given(Module):
    """Stands in the place of the layers, and returns hidden states that they made before."""

    def __init__(self, hidden_ND: Tensor) -> None:
        super().__init__()
        self._hidden_ND = hidden_ND

    def forward(self, *_: Any, **__: Any) -> _Hidden:
        return _Hidden(last_hidden_state=self._hidden_ND[None])


def logits(network: Module, hidden_ND: Tensor) -> Tensor:
    """Return the logits of hidden states after the final norm, shape (N, V).

    The model's own forward makes them, with hidden states in the place of its layers: it may scale the logits (Cohere,
    Granite) or cap them (Gemma).
    """
    whole = unwrap(network)
    name, modules = whole.base_model_prefix, whole._modules
    own = modules[name]
    modules[name] = _Given(hidden_ND)
    try:
        made: Tensor = whole(input_ids=torch.zeros((1, 1), dtype=torch.long, device=hidden_ND.device)).logits[0]
    finally:
        modules[name] = own
    return made
