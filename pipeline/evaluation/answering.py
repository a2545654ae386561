"""Answers to many prompts, by whichever way computes least.

Prompts that share their context (the questions of one document), and those with options to weigh, go through
`branches`: the context is read once, questions and options hang on it. What stands alone goes through `generation`,
in batches of like length. Both give the same tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.evaluation.asking import Prompt
from pipeline.model import generation, prefix_cache


@dataclass(frozen=True)
class Answer:
    """Generated token ids, EOS left out, and the log-probability of each option in nats."""

    output_ids: list[int]
    log_probs: list[float]


def shares(prompts: Sequence[Prompt], num: int) -> list[list[int]]:
    """Indices of the prompts that each of `num` processes answers: a context in one of them, tokens spread evenly."""
    groups: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.prefix_ids.tobytes(), []).append(index)

    def tokens(group: list[int]) -> int:
        return len(prompts[group[0]].prefix_ids) + sum(len(prompts[index].suffix_ids) for index in group)

    found: list[list[int]] = [[] for _ in range(num)]
    loads = [0] * num
    for group in sorted(groups.values(), key=tokens, reverse=True):
        least = loads.index(min(loads))
        found[least] += group
        loads[least] += tokens(group)
    return [sorted(share) for share in found]


def answer_all(
    network: PreTrainedModel | PeftModel,
    prompts: Sequence[Prompt],
    *,
    max_new_tokens: int,
    eos_id: int,
    pad_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
    progress: Callable[[int], object] = lambda num_prompts: None,
) -> list[Answer]:
    """Greedy answers, in the order of the prompts, up to `max_new_tokens` each; arguments as of generation.generate.

    Raises:
        NumericError: a logit is NaN or infinite.
    """
    answers: dict[int, Answer] = {}
    groups: dict[bytes, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt.prefix_ids.tobytes(), []).append(index)
    alone = [group[0] for group in groups.values() if len(group) == 1 and not prompts[group[0]].options]
    outputs = generation.generate(
        network,
        [np.concatenate([prompts[index].prefix_ids, prompts[index].suffix_ids]) for index in alone],
        max_new_tokens=max_new_tokens,
        eos_id=eos_id,
        pad_id=pad_id,
        banned_ids=banned_ids,
        batch_tokens=batch_tokens,
        progress=progress,
    )
    answers |= {index: Answer(output, []) for index, output in zip(alone, outputs, strict=True)}
    for group in groups.values():
        if group[0] in answers:
            continue
        found = prefix_cache.answer(
            network,
            prompts[group[0]].prefix_ids,
            [prefix_cache.Branch(prompts[index].suffix_ids, prompts[index].options) for index in group],
            max_new_tokens=max_new_tokens,
            eos_id=eos_id,
            banned_ids=banned_ids,
            batch_tokens=batch_tokens,
        )
        answers |= {
            index: Answer(answered.output_ids, answered.log_probs) for index, answered in zip(group, found, strict=True)
        }
        progress(len(group))
    return [answers[index] for index in range(len(prompts))]
