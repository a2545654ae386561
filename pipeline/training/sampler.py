"""Batch sampler: which examples are in the batch of each step."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.runtime.errors import ConfigError, DataError


def batch_indices(
    context_keys: Sequence[str], steps: int, batch_examples: int, seed: int, questions_per_document: int = 1
) -> list[list[int]]:
    """Return the indices of each step's examples; each epoch has a new random order.

    Two questions about one context are false negatives of each other, because their contexts are almost the same text.
    So a batch holds a context once, and further examples of that context wait for a later batch. With
    `questions_per_document` above 1, a batch holds up to that many examples of a context side by side: they share the
    context's computation, and the contrastive loss can leave their pairs out.

    The order depends on the seed and the epoch alone, so a resumed run continues in the same order.

    Args:
        context_keys: examples with equal keys are about one context.

    Raises:
        DataError: there is no example.
        ConfigError: there are fewer contexts than a batch needs.
    """
    if not context_keys:
        raise DataError(
            "no examples in split train; give questions with split train (bios: data.train_questions, the others: "
            "data.files.train), or stop at `dvc repro evaluate@base`"
        )
    if (num_usable := _num_usable(context_keys, questions_per_document)) < batch_examples:
        each = "" if questions_per_document == 1 else f", at most {questions_per_document} questions of each"
        raise ConfigError(
            f"train.batch_examples is {batch_examples}, but the training split has only {len(set(context_keys))} "
            f"distinct contexts{each}; allowed is 1 to {num_usable}"
        )
    batches: list[list[int]] = []
    waiting: list[int] = []
    epoch = 0
    while len(batches) < steps:
        if _num_usable([context_keys[index] for index in set(waiting)], questions_per_document) < batch_examples:
            order = np.random.default_rng([seed, epoch]).permutation(len(context_keys))
            waiting += order.tolist()
            epoch += 1
            continue
        batch = _next_batch(waiting, context_keys, batch_examples, questions_per_document)
        batches.append(batch)
        for index in batch:
            waiting.remove(index)  # only once: at the turn of an epoch an example may wait twice
    return batches


def _num_usable(context_keys: Sequence[str], questions_per_document: int) -> int:
    """Return how many examples one batch can hold."""
    return sum(min(count, questions_per_document) for count in Counter(context_keys).values())


def _next_batch(
    waiting: Sequence[int], context_keys: Sequence[str], batch_examples: int, questions_per_document: int
) -> list[int]:
    """Return the examples that have waited longest, each followed by the waiting examples of its context."""
    of_context: dict[str, list[int]] = {}
    for index in waiting:
        group = of_context.setdefault(context_keys[index], [])
        if len(group) < questions_per_document and index not in group:
            group.append(index)
    ordered = [index for group in of_context.values() for index in group]
    return ordered[:batch_examples]
