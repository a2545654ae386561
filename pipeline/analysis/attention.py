"""Where the last token of a prompt looks, layer by layer: the place where the answer is decided.

The model's own eager attention says it, for that one token: all before it are read into the cache by whatever
implementation the model runs on, then it alone is read with `output_attentions`. So the memory of a row is O(L) in each
layer, and what RoPE, grouped queries, adapters or a kind of model do to attention is in it.
"""

# B prompts of a batch, H heads, L tokens of a prompt, K keys that a layer holds, N layers

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.model import causal_lm as model
from pipeline.model import collator, generation

Floats = NDArray[np.float32]


def reaches(network: PreTrainedModel | PeftModel) -> list[int | None]:
    """Of each layer, how many of the last tokens its last query can see, itself included; None: all of them.

    Raises:
        ConfigError: as `model.windows`.
    """
    config = model.causal_lm(network).config
    windows = model.windows(config)
    kinds = getattr(config, "layer_types", None) or [next(iter(windows))] * config.num_hidden_layers
    return [windows[kind] for kind in kinds]


def last_rows(
    network: PreTrainedModel | PeftModel, prompts: Sequence[generation.Prompt], *, pad_id: int, batch_tokens: int
) -> list[Floats]:
    """For each prompt, the attention of its last token to all its L tokens, mean over heads: shape (N, L).

    Each layer's row sums to 1, as far as the model's number format does. What lies outside a layer's window is exactly
    0: see `reaches`. Prompts are token ids, none empty; batches are as in generation.
    """
    causal_lm = model.causal_lm(network)
    # As in generation: the cache of a sliding window holds the last tokens of the batch's rows.
    equal = getattr(causal_lm.config, "sliding_window", None) is not None
    rows: list[Floats] = [np.ones((causal_lm.config.num_hidden_layers, 1), dtype=np.float32)] * len(prompts)
    long = [index for index, prompt in enumerate(prompts) if len(prompt) > 1]  # a single token sees itself
    was_training = network.training
    network.eval()
    try:
        for batch in generation.batches([len(prompts[index]) for index in long], batch_tokens, equal=equal):
            chosen = [long[place] for place in batch]
            for index, row_NL in zip(chosen, _batch(causal_lm, [prompts[i] for i in chosen], pad_id), strict=True):
                rows[index] = row_NL
    finally:
        network.train(was_training)
    return rows


@torch.inference_mode()
def _batch(causal_lm: Any, prompts: Sequence[generation.Prompt], pad_id: int) -> list[Floats]:
    backbone, device = causal_lm.base_model, causal_lm.device
    before = [np.asarray(prompt[:-1], dtype=np.int32) for prompt in prompts]
    places = [np.arange(len(ids), dtype=np.int32) for ids in before]
    view = collator.pad(before, places, [len(ids) for ids in before], pad_id).to(device)
    cache = DynamicCache(config=causal_lm.config)
    # Padding stands on the right, so that without a mask causal attention is exact for the prompt's own tokens.
    backbone(input_ids=view.input_ids_BL, past_key_values=cache, use_cache=True)
    with _eager(causal_lm):
        output = backbone(
            input_ids=torch.tensor([[int(prompt[-1])] for prompt in prompts], device=device),
            attention_mask=torch.nn.functional.pad(view.mask_BL, (0, 1), value=1),
            position_ids=view.mask_BL.sum(dim=1, keepdim=True),
            past_key_values=cache,
            use_cache=True,
            output_attentions=True,
        )
    found_NBK = [_mean(weights_BH1K) for weights_BH1K in output.attentions]
    return [np.stack([_own(found_BK[row], len(ids)) for found_BK in found_NBK]) for row, ids in enumerate(before)]


def _mean(weights_BH1K: Tensor) -> Floats:
    mean_BK: Floats = weights_BH1K[:, :, 0].float().mean(dim=1).cpu().numpy()
    return mean_BK


def _own(row_K: Floats, num_before: int) -> Floats:
    """Without the padding between the cached tokens and the last one; zeros for what a window has dropped."""
    cached_K, last_1 = row_K[:-1], row_K[-1:]
    dropped = np.zeros(max(0, num_before - len(cached_K)), dtype=np.float32)
    return np.concatenate([dropped, cached_K[: num_before - len(dropped)], last_1])


@contextmanager
def _eager(causal_lm: Any) -> Iterator[None]:
    """With the one implementation that gives its weights away."""
    before = causal_lm.config._attn_implementation
    causal_lm.set_attn_implementation("eager")
    try:
        yield
    finally:
        causal_lm.set_attn_implementation(before)
