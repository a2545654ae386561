"""Which examples stand in the batch of every step."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from pipeline.runtime.errors import ConfigError, DataError


def schedule(
    context_keys: Sequence[str], steps: int, batch_examples: int, seed: int, questions_per_document: int = 1
) -> list[list[int]]:
    """Indices of the examples of every step: each pass over the data in a new order, contexts apart or together.

    Two questions about one context are false negatives of each other, for their contexts are almost the same text. So
    a context stands once in a batch, and an example that would stand beside its own context waits for a later batch.
    With `questions_per_document` above 1, up to that many examples of a context stand in a batch side by side: they
    share the context's computation, and the contrastive loss can leave their pairs out.

    The order depends on the seed and the pass alone, so that a resumed run goes on in the same order.

    Raises:
        DataError: there is no example at all.
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
    num_passes = 0
    while len(batches) < steps:
        if _num_usable([context_keys[index] for index in set(waiting)], questions_per_document) < batch_examples:
            order = np.random.default_rng([seed, num_passes]).permutation(len(context_keys))
            waiting += order.tolist()
            num_passes += 1
            continue
        batch = _next_batch(waiting, context_keys, batch_examples, questions_per_document)
        batches.append(batch)
        for index in batch:
            waiting.remove(index)  # once: at the turn of a pass an example may wait twice
    return batches


def _num_usable(context_keys: Sequence[str], questions_per_document: int) -> int:
    """Examples that may stand in one batch."""
    return sum(min(count, questions_per_document) for count in Counter(context_keys).values())


def _next_batch(
    waiting: Sequence[int], context_keys: Sequence[str], batch_examples: int, questions_per_document: int
) -> list[int]:
    """Examples in the order they wait, each followed by those of its context that wait behind it."""
    of_context: dict[str, list[int]] = {}
    for index in waiting:
        group = of_context.setdefault(context_keys[index], [])
        if len(group) < questions_per_document and index not in group:
            group.append(index)
    ordered = [index for group in of_context.values() for index in group]
    return ordered[:batch_examples]
