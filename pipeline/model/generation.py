"""Greedy generation for many prompts, in batches of similar length.

Prompts are padded on the right. A causal model does not attend to later tokens, so the prompt's own tokens need no
mask, keep their positions, and every row has a key to attend to (rows padded on the left have none and turn NaN).
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
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from pipeline.model import causal_lm, collator
from pipeline.runtime.errors import NumericError

Prompt = Sequence[int] | NDArray[np.int32]


def generate(
    network: PreTrainedModel | PeftModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    positions: Sequence[Prompt] | None = None,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[list[int]]:
    """Return the most likely tokens after each prompt, up to an EOS (left out), `max_new_tokens` or the last position.

    Args:
        prompts: token ids, none empty.
        eos_ids: tokens that end an answer.
        banned_ids: tokens that are never generated.
        batch_tokens: prompt tokens of a batch at most, padding included; a longer prompt is a batch of its own. Which
            prompts share a batch changes no result beyond rounding.
        positions: position ids of each prompt, ascending, gaps allowed; None: 0, 1, 2, ... New tokens continue from
            the last one.
        progress: is called with the number of prompts of each finished batch.

    Returns:
        The token ids of each answer, in the order of the prompts.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    decoder = causal_lm.unwrap(network)
    if positions is not None and all(map(runs_on, positions)):
        positions = None
    # The cache of a sliding window holds the last tokens of the batch's rows, so padding would push out real tokens.
    windowed = getattr(decoder.config, "sliding_window", None) is not None
    outputs: list[list[int]] = [[] for _ in prompts]
    was_training = network.training
    network.eval()
    try:
        lengths = [len(prompt) for prompt in prompts]
        for batch in collator.group_by_length(lengths, batch_tokens, min_ratio=1.0 if windowed else 0.0):
            rows = _complete(
                decoder,
                [prompts[index] for index in batch],
                None if positions is None else [positions[index] for index in batch],
                max_new_tokens,
                list(eos_ids),
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
    """Return whether the positions are 0, 1, 2, ..., which a model assumes by itself, without a mask."""
    return bool(np.array_equal(positions, np.arange(len(positions))))


@torch.inference_mode()
def _complete(
    decoder: Any,
    prompts: Sequence[Prompt],
    positions: Sequence[Prompt] | None,
    max_new_tokens: int,
    eos_ids: list[int],
    pad_id: int,
    banned_ids: list[int],
) -> list[list[int]]:
    """Generate for one batch: prefill, then one token for each unfinished row at a time."""
    backbone, device = decoder.base_model, decoder.device
    num_positions = causal_lm.num_positions(decoder.config)
    lengths_B = torch.tensor([len(prompt) for prompt in prompts], device=device)
    ids_BL = _padded(prompts, pad_id, device)
    mask_BL = torch.arange(ids_BL.shape[1], device=device) < lengths_B[:, None]
    cache = DynamicCache(config=decoder.config)
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
    stop_ids = torch.tensor(eos_ids, device=device)
    for num_new in range(max_new_tokens):
        next_B = most_likely(causal_lm.logits(decoder, hidden_BD), banned_ids, lengths_B)
        going_B = ~torch.isin(next_B, stop_ids) & (next_position_B + num_new < num_positions)
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
    ids = [torch.as_tensor(row, dtype=torch.long, device=device) for row in rows]
    return pad_sequence(ids, batch_first=True, padding_value=value)


def most_likely(logits_BV: Tensor, banned_ids: list[int], lengths_B: Tensor) -> Tensor:
    """Return the token with the highest logit in each row, banned tokens apart; overwrites the logits.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    require_finite(logits_BV, lengths_B)
    logits_BV[:, banned_ids] = -torch.inf
    return logits_BV.argmax(dim=1)


def require_finite(logits_BV: Tensor, lengths_B: Tensor) -> None:
    """Raise NumericError, with the number of tokens before it, where a row of logits is NaN or infinite."""
    finite_B = logits_BV.isfinite().all(dim=1)
    if not finite_B.all():
        num_tokens = int(lengths_B[~finite_B][0])
        raise NumericError(
            f"logits after a prompt of {num_tokens:,} tokens are NaN or infinite; the weights or the adapter are "
            "broken (train again), or model.dtype is too coarse for this length (use float32)"
        )
