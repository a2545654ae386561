"""What a teacher says to a prompt: its answer, and its likeliest tokens at each place of the answer."""

# B prompts of a batch, N tokens of their answers, K likeliest tokens

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.model import causal_lm, collator, generation

Ints = NDArray[np.int32]


class Said(NamedTuple):
    """The teacher's answer to one prompt, of N tokens."""

    output_ids: list[int]
    """EOS included, where the answer came to an end."""
    top_ids_NK: Ints
    """Likeliest first; K = `num_top`, or the vocabulary's size where that is smaller."""
    top_log_probs_NK: NDArray[np.float32]
    """Nats, of the whole vocabulary's distribution."""


def teach(
    network: Any,
    prompts: Sequence[Ints],
    *,
    num_top: int,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[Said]:
    """Greedy answers, then the distributions along them; arguments as of generation.generate.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    outputs = generation.generate(
        network,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        banned_ids=banned_ids,
        batch_tokens=batch_tokens,
    )
    whole = [[*output, eos_id] if len(output) < max_new_tokens else output for output in outputs]
    rows = [
        collator.row_of_one(
            np.concatenate([prompt, np.asarray(output, dtype=np.int32)]),
            np.arange(len(prompt) + len(output), dtype=np.int32),
            len(prompt),
        )
        for prompt, output in zip(prompts, whole, strict=True)
    ]
    said: dict[int, Said] = {}
    device = causal_lm.unwrap(network).lm_head.weight.device
    for pack in collator.packs(rows, batch_tokens):
        view = collator.collate([rows[index] for index in pack], pad_id).to(device)
        with torch.inference_mode():
            logits_NV = causal_lm.logits_at_labels(network, causal_lm.hidden_states(network, view), view)
            log_probs_NV = functional.log_softmax(logits_NV.float(), dim=-1)
            top_NK = log_probs_NV.topk(min(num_top, log_probs_NV.shape[1]), dim=-1)
        lengths = [len(whole[index]) for index in pack]
        ids, log_probs = (torch.split(found.cpu(), lengths) for found in (top_NK.indices.int(), top_NK.values))
        for index, ids_NK, log_probs_NK in zip(pack, ids, log_probs, strict=True):
            said[index] = Said(whole[index], ids_NK.numpy(), log_probs_NK.numpy())
        progress(len(pack))
    return [said[index] for index in range(len(prompts))]
