"""Which examples stand in a training batch, and the tensors of a view."""

# B examples, L tokens of the longest view of the batch, N label tokens of the batch

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.errors import ConfigError, DataError

Ints = NDArray[np.int32]


def schedule(context_keys: Sequence[str], steps: int, batch_examples: int, seed: int) -> list[list[int]]:
    """Indices of the examples of every step: each pass over the data in a new order, no context twice in a batch.

    Two questions about one context are false negatives of each other: their contexts are almost the same text. An
    example that would stand beside its own context waits for a later batch. The order depends on the seed and the
    pass alone, so that a resumed run goes on in the same order.

    Raises:
        DataError: there is no example at all.
        ConfigError: there are fewer distinct contexts than a batch needs.
    """
    if not context_keys:
        raise DataError(
            "no examples in split train; give questions with split train (bios: data.train_questions, the others: "
            "data.files.train), or stop at `dvc repro evaluate@base`"
        )
    if (num_contexts := len(set(context_keys))) < batch_examples:
        raise ConfigError(
            f"train.batch_examples is {batch_examples}, but the training split has only {num_contexts} distinct "
            f"contexts; allowed is 1 to {num_contexts}"
        )
    batches: list[list[int]] = []
    waiting: list[int] = []
    num_passes = 0
    while len(batches) < steps:
        if not _has_batch(waiting, context_keys, batch_examples):
            order = np.random.default_rng([seed, num_passes]).permutation(len(context_keys))
            waiting += order.tolist()
            num_passes += 1
            continue
        batch: list[int] = []
        later: list[int] = []
        keys: set[str] = set()
        for index in waiting:
            if len(batch) < batch_examples and context_keys[index] not in keys:
                batch.append(index)
                keys.add(context_keys[index])
            else:
                later.append(index)
        batches.append(batch)
        waiting = later
    return batches


def _has_batch(waiting: Sequence[int], context_keys: Sequence[str], batch_examples: int) -> bool:
    return len(waiting) >= batch_examples and len({context_keys[index] for index in waiting}) >= batch_examples


class View(NamedTuple):
    """One view of a batch, padded on the right. The attention mask is always explicit: without one, transformers
    reads gaps in the positions as packed sequences and silently cuts the context there."""

    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    position_ids_BL: Tensor
    prompt_end_B: Tensor
    """Number of prompt tokens."""
    length_B: Tensor
    label_rows_N: Tensor
    """Row of the batch of each label."""
    label_positions_N: Tensor
    """Token whose hidden state predicts the label."""
    labels_N: Tensor

    def to(self, device: torch.device) -> "View":
        return View(*(tensor.to(device) for tensor in self))


def pad(input_ids: Sequence[Ints], position_ids: Sequence[Ints], prompt_ends: Sequence[int], pad_id: int) -> View:
    """Pad the views of a batch; labels are the tokens from prompt_end on (answer and EOS)."""
    lengths = [len(ids) for ids in input_ids]
    shape = (len(lengths), max(lengths))
    ids_BL = torch.full(shape, pad_id, dtype=torch.long)
    mask_BL = torch.zeros(shape, dtype=torch.long)
    positions_BL = torch.zeros(shape, dtype=torch.long)
    rows: list[int] = []
    places: list[int] = []
    labels: list[int] = []
    for row, (ids, positions, end) in enumerate(zip(input_ids, position_ids, prompt_ends, strict=True)):
        ids_BL[row, : len(ids)] = torch.from_numpy(np.asarray(ids, dtype=np.int64))
        mask_BL[row, : len(ids)] = 1
        positions_BL[row, : len(ids)] = torch.from_numpy(np.asarray(positions, dtype=np.int64))
        rows += [row] * (len(ids) - end)
        places += range(end - 1, len(ids) - 1)
        labels += ids[end:].tolist()
    return View(
        ids_BL,
        mask_BL,
        positions_BL,
        torch.tensor(list(prompt_ends)),
        torch.tensor(lengths),
        torch.tensor(rows),
        torch.tensor(places),
        torch.tensor(labels),
    )
