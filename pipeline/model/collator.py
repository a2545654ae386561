"""Collator: rows of token ids, which rows share a forward, and their padded tensors.

A row is one view of one example. Or it holds the full views of several examples over one context: the context once,
then the question and answer of each example as a segment of its own.
"""

# B rows, L tokens of the longest row, E examples of the rows, N label tokens, K tokens of the teacher, C chunks

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int32]

SHORTEST_BESIDE = 0.75  # of the longest row of a forward; shorter rows would be computed as padding for the most part
NO_CHUNK = -1
SHARED, PADDING = -1, -2
"""RowSegment numbers of the shared context's tokens and of padding."""


class RowSegment(NamedTuple):
    """The token span of one example in its row: [start, end)."""

    start: int
    """0 when the row holds one example alone."""
    prompt_end: int
    end: int


@dataclass(frozen=True)
class TokenRow:
    """One sequence of tokens."""

    input_ids: Ints
    position_ids: Ints
    num_shared: int
    """Tokens of the context before the first segment, which all segments read; 0 when the row holds one example."""
    segments: tuple[RowSegment, ...]
    teacher_ids_NK: NDArray[np.int64] | None = None
    """For distillation: the teacher's K likeliest tokens at each label."""
    teacher_log_probs_NK: NDArray[np.float32] | None = None
    """Their log-probabilities in nats."""
    chunk_L: Ints | None = None
    """For attention that is taught: the number of each token's chunk in the context; NO_CHUNK outside of all chunks."""
    target_EC: NDArray[np.float32] | None = None
    """For each example the share of its attention that each chunk should get; a row sums to 1."""

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def num_labels(self) -> int:
        return sum(segment.end - segment.prompt_end for segment in self.segments)


def row_of_one(input_ids: Ints, position_ids: Ints, prompt_end: int) -> TokenRow:
    """Make the row of a single view; its labels are the tokens from `prompt_end` on."""
    return TokenRow(input_ids, position_ids, 0, (RowSegment(0, prompt_end, len(input_ids)),))


def row_of_many(views: Sequence[TokenRow], num_shared: int) -> TokenRow:
    """Make one row of single full views that begin with the same `num_shared` tokens; every prompt ends behind these.

    All of them have a teacher, or none; and targets of attention, or none.
    """
    first = views[0]
    assert all(np.array_equal(view.input_ids[:num_shared], first.input_ids[:num_shared]) for view in views)
    assert all(view.segments[0].prompt_end > num_shared for view in views)
    segments: list[RowSegment] = []
    start = num_shared
    for view in views:
        end = start + len(view) - num_shared
        segments.append(RowSegment(start, start + view.segments[0].prompt_end - num_shared, end))
        start = end
    chunks = [view.chunk_L for view in views if view.chunk_L is not None]
    return TokenRow(
        _behind([view.input_ids for view in views], num_shared),
        _behind([view.position_ids for view in views], num_shared),
        num_shared,
        tuple(segments),
        teacher_ids_NK=_joined([view.teacher_ids_NK for view in views]),
        teacher_log_probs_NK=_joined([view.teacher_log_probs_NK for view in views]),
        chunk_L=_behind(chunks, num_shared) if chunks else None,
        target_EC=_joined([view.target_EC for view in views]),
    )


def _behind(values: Sequence[Ints], num_shared: int) -> Ints:
    """Join the first `num_shared` values, which are shared, and what follows them in each sequence."""
    return np.concatenate([values[0][:num_shared], *(own[num_shared:] for own in values)])


def group_by_length(
    lengths: Sequence[int], batch_tokens: int, *, min_ratio: float = 0.0, alone: Collection[int] = ()
) -> list[list[int]]:
    """Group sequences that share a forward, longest first: at most `batch_tokens` tokens with padding.

    A sequence that is longer than `batch_tokens` makes a group of its own.

    Args:
        min_ratio: length of the shortest sequence of a group, as a share of the longest; 1: no padding at all.
        alone: indices of sequences that share no forward.

    Returns:
        The indices of each group. Sequences of equal length keep their order.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        group = groups[-1] if groups else []
        longest = lengths[group[0]] if group else 0
        fits = group and (len(group) + 1) * longest <= batch_tokens and lengths[index] >= min_ratio * longest
        if fits and index not in alone and group[0] not in alone:
            group.append(index)
        else:
            groups.append([index])
    return groups


def group_rows(rows: Sequence[TokenRow], batch_tokens: int) -> list[list[int]]:
    """Group the indices of rows that share a forward of at most `batch_tokens` tokens with padding.

    Rows of a shared context go alone, because they need an attention mask of their own. Grouping changes no result
    beyond rounding.
    """
    shared = {index for index, row in enumerate(rows) if len(row.segments) > 1}
    return group_by_length([len(row) for row in rows], batch_tokens, min_ratio=SHORTEST_BESIDE, alone=shared)


class ModelInputs(NamedTuple):
    """The tensors of some rows, padded on the right.

    The attention mask is always explicit: without one, transformers reads gaps in the positions as packed sequences
    and silently cuts the context there.
    """

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    mask_BL: Tensor
    """1 for tokens, 0 for padding."""
    segment_BL: Tensor | None
    """Number of each token's segment, SHARED for the context, PADDING; None when each row holds one example."""
    row_E: Tensor
    num_shared_E: Tensor
    start_E: Tensor
    prompt_end_E: Tensor
    end_E: Tensor
    label_examples_N: Tensor
    """Example of each label."""
    label_positions_N: Tensor
    """Position in the row of the token whose hidden state predicts the label."""
    labels_N: Tensor
    teacher_ids_NK: Tensor | None = None
    """As in the rows, where all of them have it."""
    teacher_log_probs_NK: Tensor | None = None
    chunk_BL: Tensor | None = None
    """As in the rows, where some row has it; NO_CHUNK in all other rows, whose targets are 0."""
    target_EC: Tensor | None = None

    def to(self, device: torch.device) -> "ModelInputs":
        moved: list[Any] = [None if tensor is None else tensor.to(device) for tensor in self]
        return ModelInputs(*moved)


def collate(rows: Sequence[TokenRow], pad_id: int) -> ModelInputs:
    """Pad the rows into tensors; labels are the tokens behind each prompt (answer and EOS)."""
    shape = (len(rows), max(map(len, rows)))
    ids_BL = np.full(shape, pad_id, dtype=np.int64)
    positions_BL = np.zeros(shape, dtype=np.int64)
    mask_BL = np.zeros(shape, dtype=np.int64)
    segment_BL = np.full(shape, PADDING, dtype=np.int64)
    examples: list[tuple[int, int, int, int, int]] = []
    labels: list[tuple[int, int, int]] = []
    for row_number, row in enumerate(rows):
        ids_BL[row_number, : len(row)] = row.input_ids
        positions_BL[row_number, : len(row)] = row.position_ids
        mask_BL[row_number, : len(row)] = 1
        segment_BL[row_number, : row.num_shared] = SHARED
        for segment_number, segment in enumerate(row.segments):
            segment_BL[row_number, segment.start : segment.end] = segment_number
            for position in range(segment.prompt_end - 1, segment.end - 1):
                labels.append((len(examples), position, int(row.input_ids[position + 1])))
            examples.append((row_number, row.num_shared, *segment))
    example_5E = torch.tensor(examples, dtype=torch.long).T
    label_3N = torch.tensor(labels, dtype=torch.long).reshape(-1, 3).T
    has_shared_rows = any(len(row.segments) > 1 for row in rows)
    inputs = ModelInputs(
        torch.from_numpy(ids_BL),
        torch.from_numpy(positions_BL),
        torch.from_numpy(mask_BL),
        torch.from_numpy(segment_BL) if has_shared_rows else None,
        *example_5E.unbind(),
        *label_3N.unbind(),
    )
    chunk_BL, target_EC = _targets(rows, shape[1])
    return inputs._replace(
        teacher_ids_NK=_tensor(_joined([row.teacher_ids_NK for row in rows])),
        teacher_log_probs_NK=_tensor(_joined([row.teacher_log_probs_NK for row in rows])),
        chunk_BL=chunk_BL,
        target_EC=target_EC,
    )


def _targets(rows: Sequence[TokenRow], num_tokens: int) -> tuple[Tensor | None, Tensor | None]:
    """Pad chunk numbers and targets of attention; none where no row has them."""
    num_chunks = max((row.target_EC.shape[1] for row in rows if row.target_EC is not None), default=0)
    if not num_chunks:
        return None, None
    chunk_BL = np.full((len(rows), num_tokens), NO_CHUNK, dtype=np.int64)
    target_EC = np.zeros((sum(len(row.segments) for row in rows), num_chunks), dtype=np.float32)
    example = 0
    for row_number, row in enumerate(rows):
        if row.chunk_L is not None and row.target_EC is not None:
            chunk_BL[row_number, : len(row)] = row.chunk_L
            target_EC[example : example + len(row.segments), : row.target_EC.shape[1]] = row.target_EC
        example += len(row.segments)
    return torch.from_numpy(chunk_BL), torch.from_numpy(target_EC)


def _joined(arrays: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    found = [array for array in arrays if array is not None]
    return np.concatenate(found) if found else None


def _tensor(array: NDArray[Any] | None) -> Tensor | None:
    return None if array is None else torch.from_numpy(array)


def pad(
    input_ids: Sequence[Ints], position_ids: Sequence[Ints], prompt_ends: Sequence[int], pad_id: int
) -> ModelInputs:
    """Collate views that are a row each."""
    return collate([row_of_one(*view) for view in zip(input_ids, position_ids, prompt_ends, strict=True)], pad_id)
