"""Greedy answers to many prompts, in batches of like length.

Prompts are padded on the right: a causal model never sees what stands behind a token, so the prompt's own tokens need
no mask, keep their positions, and no row is without a key to attend to (rows padded on the left are, and turn NaN).
New tokens follow behind the padding, which an explicit mask hides from then on, and continue the prompt's positions.
"""

# B prompts of a batch, L tokens of the longest, D hidden, V vocabulary

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.runtime.errors import NumericError

Prompt = Sequence[int] | NDArray[np.int32]


def generate(
    network: PreTrainedModel | PeftModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    positions: Sequence[Prompt] | None = None,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[list[int]]:
    """The most likely tokens after each prompt, in the order of the prompts, up to EOS (left out) or `max_new_tokens`.

    Prompts are token ids, none empty. A batch holds at most `batch_tokens` prompt tokens, padding included, and at
    least one prompt; which prompts share it changes no result beyond rounding. `banned_ids` are never generated.
    `positions` are those of each prompt's tokens, ascending, gaps allowed; None: 0, 1, 2, ... New tokens go on from the
    last one. `progress` is called with the number of prompts of each finished batch.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    causal_lm: Any = network.get_base_model() if isinstance(network, PeftModel) else network
    if positions is not None and all(map(runs_on, positions)):
        positions = None
    # The cache of a sliding window holds the last tokens of the batch's rows: padding would push out real ones.
    equal = getattr(causal_lm.config, "sliding_window", None) is not None
    outputs: list[list[int]] = [[] for _ in prompts]
    was_training = network.training
    network.eval()
    try:
        for batch in batches([len(prompt) for prompt in prompts], batch_tokens, equal=equal):
            rows = _complete(
                causal_lm,
                [prompts[index] for index in batch],
                None if positions is None else [positions[index] for index in batch],
                max_new_tokens,
                eos_id,
                pad_id,
                list(banned_ids),
            )
            for index, row in zip(batch, rows, strict=True):
                outputs[index] = row
            progress(len(batch))
    finally:
        network.train(was_training)
    return outputs


def runs_on(positions: Prompt) -> bool:
    """Positions 0, 1, 2, ...: what a model takes by itself, without a mask and on its fastest path."""
    return bool(np.array_equal(positions, np.arange(len(positions))))


def batches(lengths: Sequence[int], batch_tokens: int, *, equal: bool = False) -> list[list[int]]:
    """Indices of the prompts of each batch: longest first, at most `batch_tokens` with padding; `equal`: no padding."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        longest = lengths[found[-1][0]] if found else 0
        fits = found and (len(found[-1]) + 1) * longest <= batch_tokens
        if fits and (not equal or lengths[index] == longest):
            found[-1].append(index)
        else:
            found.append([index])
    return found


@torch.inference_mode()
def _complete(
    causal_lm: Any,
    prompts: Sequence[Prompt],
    positions: Sequence[Prompt] | None,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    banned_ids: list[int],
) -> list[list[int]]:
    """One batch: prefill, then one token for each unfinished row at a time."""
    backbone, head, device = causal_lm.base_model, causal_lm.get_output_embeddings(), causal_lm.device
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids_BL = _padded(prompts, pad_id, device)
    mask_BL = torch.arange(ids_BL.shape[1], device=device) < lengths_B[:, None]
    cache = DynamicCache(config=causal_lm.config)
    if positions is None:
        # Without a mask and positions transformers takes causal attention over 0..L-1, its fastest path and here exact.
        output = backbone(input_ids=ids_BL, past_key_values=cache, use_cache=True)
        next_position_B = lengths_B
    else:
        # With gaps the mask must be explicit: transformers may read them as borders of packed sequences.
        places_BL = _padded(positions, 0, device)
        output = backbone(
            input_ids=ids_BL, attention_mask=mask_BL, position_ids=places_BL, past_key_values=cache, use_cache=True
        )
        next_position_B = places_BL.amax(dim=1) + 1
    hidden_BD = output.last_hidden_state[torch.arange(len(prompts), device=device), lengths_B - 1]
    outputs: list[list[int]] = [[] for _ in prompts]
    unfinished = list(range(len(prompts)))
    for num_new in range(max_new_tokens):
        next_B = most_likely(head(hidden_BD), banned_ids, lengths_B)
        going_B = next_B != eos_id
        unfinished = [row for row, going in zip(unfinished, going_B.tolist(), strict=True) if going]
        next_B = next_B[going_B]
        for row, token in zip(unfinished, next_B.tolist(), strict=True):
            outputs[row].append(token)
        if not unfinished or num_new + 1 == max_new_tokens:
            break
        if not going_B.all():
            cache.batch_select_indices(going_B.nonzero()[:, 0])
            lengths_B, mask_BL, next_position_B = lengths_B[going_B], mask_BL[going_B], next_position_B[going_B]
        mask_BL = torch.nn.functional.pad(mask_BL, (0, 1), value=True)
        hidden_BD = backbone(
            input_ids=next_B[:, None],
            attention_mask=mask_BL,
            position_ids=(next_position_B + num_new)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state[:, 0]
    return outputs


def _padded(rows: Sequence[Prompt], value: int, device: torch.device) -> Tensor:
    padded_BL = torch.full((len(rows), max(len(row) for row in rows)), value, device=device)
    for index, row in enumerate(rows):
        padded_BL[index, : len(row)] = torch.as_tensor(row, device=device)
    return padded_BL


def most_likely(logits_BV: Tensor, banned_ids: list[int], lengths_B: Tensor) -> Tensor:
    """The token with the highest logit of each row, none of them banned; writes into the logits.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    require_finite(logits_BV, lengths_B)
    logits_BV[:, banned_ids] = -torch.inf
    return logits_BV.argmax(dim=1)


def require_finite(logits_BV: Tensor, lengths_B: Tensor) -> None:
    """Raise NumericError, with the number of tokens before it, when a row of logits is NaN or infinite."""
    finite_B = logits_BV.isfinite().all(dim=1)
    if not finite_B.all():
        num_tokens = int(lengths_B[~finite_B][0])
        raise NumericError(
            f"logits after a prompt of {num_tokens:,} tokens are NaN or infinite; the weights or the adapter are "
            "broken (train again), or model.dtype is too coarse for this length (use float32)"
        )
