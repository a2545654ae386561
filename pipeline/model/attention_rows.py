"""The attention weights of chosen tokens, computed beside whatever attention implementation the model runs on.

Only transformers' eager attention returns its weights, and all of them. Here every implementation is registered anew
with a wrapper: a model that is called with `attention_rows` computes the rows of its chosen tokens as well, from the
queries and keys that the implementation gets. Rotary positions, norms of queries and keys, grouped keys, windows and
soft caps are therefore the model's own. The cost is one row of scores for each chosen token, in each chosen layer.
Where the layers of a family do not hand on `attention_rows`, the position ids carry them (`carry`).
"""

# B rows, L tokens of the longest row, N chosen tokens, H heads, G heads of keys, D of a head, X queries of a group

import sys
from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module
from transformers import AttentionInterface

from pipeline.model import attention_mask
from pipeline.model.collator import ModelInputs


class AttentionRows:
    """The chosen tokens, and what was made of their attention in each layer.

    An object serves one forward pass, and its repetition under activation checkpointing.
    """

    def __init__(
        self,
        inputs: ModelInputs,
        row_N: Tensor,
        position_N: Tensor,
        reduce: Callable[[Tensor, Tensor], Tensor],
        layers: Collection[int] | None = None,
    ) -> None:
        """Choose tokens by row and position in the row, sorted by row.

        Args:
            reduce: what is kept of a layer, made of the weights, shape (N, H, L), at least in fp32, and of whether
                the chosen token can see each token, shape (N, L).
            layers: numbers of the layers, from 0; None: all.
        """
        self.reduced: dict[int, Tensor] = {}
        """Results of `reduce`, by number of the layer."""
        self._reduce, self._layers = reduce, layers
        self._of_rows = [(row, position_N[row_N == row]) for row in sorted(set(row_N.tolist()))]
        self._seen_NL, self._distance_NL = attention_mask.seen_by(inputs, row_N, position_N)

    def read(
        self, layer: int, query_BHLD: Tensor, key_BGLD: Tensor, scaling: float, window: int | None, cap: float | None
    ) -> None:
        """Compute the weights of one layer."""
        if self._layers is not None and layer not in self._layers:
            return
        seen_NL = self._seen_NL if window is None else self._seen_NL & (self._distance_NL < window)
        with torch.autocast(query_BHLD.device.type, enabled=False):
            scores_NHL = torch.cat([_scores(query_BHLD[row][:, at], key_BGLD[row]) for row, at in self._of_rows])
            scores_NHL = scores_NHL * scaling
            if cap is not None:
                scores_NHL = cap * (scores_NHL / cap).tanh()
            weights_NHL = scores_NHL.masked_fill(~seen_NL[:, None], -torch.inf).softmax(dim=-1)
            self.reduced[layer] = self._reduce(weights_NHL, seen_NL)


def _scores(query_HND: Tensor, key_GLD: Tensor) -> Tensor:
    """Return the products of each query with all keys, shape (N, H, L), at least in fp32."""
    dtype = torch.promote_types(query_HND.dtype, torch.float32)
    # Heads of one group follow each other; they share their keys.
    query_GXD = query_HND.to(dtype).reshape(len(key_GLD), -1, query_HND.shape[-1])
    scores_GXL = query_GXD @ key_GLD.to(dtype).transpose(1, 2)
    return scores_GXL.reshape(len(query_HND), -1, key_GLD.shape[1]).transpose(0, 1)


def carry(rows: Any, position_ids_BL: Tensor, layers: Iterable[Module]) -> Tensor:
    """Return the position ids with the AttentionRows on them, where the attention of these layers picks them up.

    Activation checkpointing repeats a layer without the layer's hooks, but with the same position ids.
    """
    for module in (module for layer in layers for module in layer.modules() if "Attention" in type(module).__name__):
        if _pick_up not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_pick_up, with_kwargs=True)
    carrying: Any = position_ids_BL.view_as(position_ids_BL)
    carrying.attention_rows = rows
    found: Tensor = carrying
    return found


def _pick_up(module: Module, _: Any, options: dict[str, Any]) -> None:
    vars(module)["attention_rows"] = getattr(options.get("position_ids"), "attention_rows", None)


def _with_rows(implementation: Callable[..., Any] | None) -> Callable[..., Any]:
    """Wrap an attention implementation; None: the eager one, which each family of models has of its own."""

    def attend(
        module: Any,
        query: Tensor,
        key: Tensor,
        *inputs: Any,
        attention_rows: AttentionRows | None = None,
        **options: Any,
    ) -> Any:
        carried = vars(module).pop("attention_rows", None)
        if rows := attention_rows or carried:
            rows.read(
                module.layer_idx,
                query,
                key,
                options.get("scaling") or module.scaling,
                options.get("sliding_window", getattr(module, "sliding_window", None)),
                options.get("softcap"),
            )
        own = implementation or sys.modules[type(module).__module__].eager_attention_forward
        return own(module, query, key, *inputs, **options)

    return attend


_implementations: Any = AttentionInterface._global_mapping
for _name, _implementation in [*_implementations.items(), ("eager", None)]:
    if not _name.startswith("paged"):
        AttentionInterface.register(_name, _with_rows(_implementation))
