"""The teacher: its answer to a prompt, and its likeliest tokens at each position of the answer."""

# B prompts of a batch, N tokens of their answers, K likeliest tokens

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from pipeline.model import causal_lm, collator, generation
from pipeline.model.collator import Ints


class TeacherAnswer(NamedTuple):
    """The teacher's answer to one prompt, N tokens long."""

    output_ids: list[int]
    """The first EOS included, unless the answer reached the limit."""
    top_ids_NK: Ints
    """Likeliest first; K = `num_top`, or the vocabulary's size where that is smaller."""
    top_log_probs_NK: NDArray[np.float32]
    """In nats, normalised over the whole vocabulary."""


def teach(
    network: Any,
    prompts: Sequence[Ints],
    *,
    num_top: int,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[TeacherAnswer]:
    """Generate greedy answers, then read the distributions along them; arguments as in generation.generate.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    outputs = generation.generate(
        network,
        prompts,
        max_new_tokens=max_new_tokens,
        eos_ids=eos_ids,
        pad_id=pad_id,
        banned_ids=banned_ids,
        batch_tokens=batch_tokens,
    )
    num_positions = causal_lm.num_positions(causal_lm.unwrap(network).config)
    whole = [
        [*output, eos_ids[0]] if len(output) < min(max_new_tokens, num_positions - len(prompt)) else output
        for prompt, output in zip(prompts, outputs, strict=True)
    ]
    rows = [
        collator.row_of_one(
            np.concatenate([prompt, np.asarray(output, dtype=np.int32)]),
            np.arange(len(prompt) + len(output), dtype=np.int32),
            len(prompt),
        )
        for prompt, output in zip(prompts, whole, strict=True)
    ]
    answers: dict[int, TeacherAnswer] = {}
    device = causal_lm.unwrap(network).device
    for group in collator.group_rows(rows, batch_tokens):
        inputs = collator.collate([rows[index] for index in group], pad_id).to(device)
        with torch.inference_mode():
            logits_NV = causal_lm.logits_at_labels(network, causal_lm.hidden_states(network, inputs), inputs)
            log_probs_NV = functional.log_softmax(logits_NV.float(), dim=-1)
            top_NK = log_probs_NV.topk(min(num_top, log_probs_NV.shape[1]), dim=-1)
        lengths = [len(whole[index]) for index in group]
        ids, log_probs = (torch.split(found.cpu(), lengths) for found in (top_NK.indices.int(), top_NK.values))
        for index, ids_NK, log_probs_NK in zip(group, ids, log_probs, strict=True):
            answers[index] = TeacherAnswer(whole[index], ids_NK.numpy(), log_probs_NK.numpy())
        progress(len(group))
    return [answers[index] for index in range(len(prompts))]
