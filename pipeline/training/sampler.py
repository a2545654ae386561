"""Batch sampler: which examples are in the batch of each step."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain

import numpy as np

from pipeline.runtime.errors import ConfigError, DataError


def batch_indices(
    context_keys: Sequence[str], steps: int, batch_examples: int, seed: int, questions_per_document: int = 1
) -> list[list[int]]:
    """Return the indices of each step's examples; each epoch has a new random order.

    Two questions about one context are false negatives of each other, because their contexts are almost the same text.
    So a batch holds no two examples that share a part of their context keys (a gold text), and further examples wait
    for a later batch. With `questions_per_document` above 1, a batch holds up to that many examples with equal keys
    side by side: they share the context's computation, and the contrastive loss can leave their pairs out.

    The order depends on the seed and the epoch alone, so a resumed run continues in the same order.

    Args:
        context_keys: as in tables.FULL_VIEWS.

    Raises:
        DataError: there is no example.
        ConfigError: there are fewer contexts than a batch needs.
    """
    if not context_keys:
        raise DataError(
            "no examples in split train; give questions with split train (bios: data.train_questions, the others: "
            "data.files.train), or stop at `dvc repro evaluate@base`"
        )
    gold_of = {key: set(key.split("\t")) for key in context_keys}
    # Examples with few gold texts first, because they leave most room for others.
    by_gold = sorted(range(len(context_keys)), key=lambda index: len(gold_of[context_keys[index]]))
    num_usable = len(_next_batch(by_gold, context_keys, gold_of, len(context_keys), questions_per_document))
    if num_usable < batch_examples:
        counts = Counter(context_keys)
        alone = "; the contrastive loss needs a second one: divide the document, or set contrastive.weight to 0.0"
        shared = "; examples that share a gold text are never in one batch"
        raise ConfigError(
            f"train.batch_examples is {batch_examples}, but the training split has only {len(counts)} distinct "
            f"contexts, and a batch takes at most {questions_per_document} questions of each "
            f"(train.questions_per_document, here up to {max(counts.values())}); allowed is 1 to {num_usable}"
            + (alone if len(counts) == 1 else "")
            + (shared if max(map(len, gold_of.values())) > 1 else "")
        )
    batches: list[list[int]] = []
    waiting: list[int] = []
    epoch = 0
    while len(batches) < steps:
        batch = _next_batch(waiting, context_keys, gold_of, batch_examples, questions_per_document)
        if len(batch) < batch_examples:
            if len(set(waiting)) < len(context_keys):
                order = np.random.default_rng([seed, epoch]).permutation(len(context_keys))
                waiting += order.tolist()
                epoch += 1
                continue
            # The example that has waited longest shares gold texts with too many others: another one begins.
            orders = chain((waiting[start:] + waiting[:start] for start in range(1, len(waiting))), [by_gold])
            found = (
                _next_batch(order, context_keys, gold_of, batch_examples, questions_per_document) for order in orders
            )
            batch = next(batch for batch in found if len(batch) == batch_examples)
        batches.append(batch)
        for index in batch:
            waiting.remove(index)  # only once: at the turn of an epoch an example may wait twice
    return batches


def _next_batch(
    waiting: Sequence[int],
    context_keys: Sequence[str],
    gold_of: Mapping[str, set[str]],
    batch_examples: int,
    questions_per_document: int,
) -> list[int]:
    """Return the examples that have waited longest, each followed by the waiting examples with its key."""
    of_context: dict[str, list[int]] = {}
    for index in waiting:
        group = of_context.setdefault(context_keys[index], [])
        if len(group) < questions_per_document and index not in group:
            group.append(index)
    batch: list[int] = []
    gold: set[str] = set()
    for key, group in of_context.items():
        if len(batch) < batch_examples and gold.isdisjoint(gold_of[key]):
            gold |= gold_of[key]
            batch += group
    return batch[:batch_examples]
