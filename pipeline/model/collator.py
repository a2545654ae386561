"""Rows of tokens, how many of them go through the model at once, and their tensors.

A row is one view of one example; or the full views of several examples over one context, which then stands in it once,
the questions and answers behind it as branches.
"""

# B rows, L tokens of the longest row, E examples of the rows, N label tokens

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Ints = NDArray[np.int32]

SHORTEST_BESIDE = 0.75  # of the longest row of a forward: shorter ones would be computed as padding for the most part


class Branch(NamedTuple):
    """Where an example's own tokens stand in its row."""

    start: int
    """0 when the row is the example's alone."""
    prompt_end: int
    end: int


class Row(NamedTuple):
    """One sequence of tokens."""

    input_ids: Ints
    position_ids: Ints
    num_shared: int
    """Tokens of the context before the first branch, read by all of them; 0 when the row is one example's alone."""
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.input_ids)


def row_of_one(input_ids: Ints, position_ids: Ints, prompt_end: int) -> Row:
    """The row of a single view; what stands behind `prompt_end` are its labels."""
    return Row(input_ids, position_ids, 0, (Branch(0, prompt_end, len(input_ids)),))


def row_of_many(views: Sequence[Ints], prompt_ends: Sequence[int], num_shared: int) -> Row:
    """One row of full views that begin with the same `num_shared` tokens; none of them ends its prompt within these."""
    assert all(np.array_equal(ids[:num_shared], views[0][:num_shared]) for ids in views)
    assert all(end > num_shared for end in prompt_ends)
    places = np.arange(max(map(len, views)), dtype=np.int32)
    branches: list[Branch] = []
    start = num_shared
    for ids, prompt_end in zip(views, prompt_ends, strict=True):
        branches.append(Branch(start, start + prompt_end - num_shared, start + len(ids) - num_shared))
        start = branches[-1].end
    return Row(
        np.concatenate([views[0][:num_shared], *(ids[num_shared:] for ids in views)]),
        np.concatenate([places[:num_shared], *(places[num_shared : len(ids)] for ids in views)]),
        num_shared,
        tuple(branches),
    )


def packs(rows: Sequence[Row], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of the rows that share a forward: at most `batch_tokens` tokens with padding, at least one row.

    Rows of a shared context go alone, for they need an attention mask of their own; others beside rows of much the
    same length. Which rows share a forward changes no result beyond rounding.
    """
    pack: list[int] = []
    for index in sorted(range(len(rows)), key=lambda index: -len(rows[index])):  # stable: equal rows keep their order
        alone = len(rows[index].branches) > 1
        if pack:
            longest = len(rows[pack[0]])
            full = (len(pack) + 1) * longest > batch_tokens
            if alone or full or len(rows[index]) < SHORTEST_BESIDE * longest or len(rows[pack[0]].branches) > 1:
                yield pack
                pack = []
        pack.append(index)
    if pack:
        yield pack


class View(NamedTuple):
    """Rows padded on the right. The attention mask is always explicit: without one, transformers reads gaps in the
    positions as packed sequences and silently cuts the context there."""

    input_ids_BL: Tensor
    position_ids_BL: Tensor
    mask_BL: Tensor
    """1 for tokens, 0 for padding."""
    branch_BL: Tensor | None
    """Of each token, SHARED for the context, PADDING; None when each row is one example's alone."""
    row_E: Tensor
    num_shared_E: Tensor
    start_E: Tensor
    prompt_end_E: Tensor
    end_E: Tensor
    label_examples_N: Tensor
    """Example of each label."""
    label_positions_N: Tensor
    """Token whose hidden state predicts the label."""
    labels_N: Tensor
    taught_ids_NK: Tensor | None = None
    """Of views that are taught: the teacher's likeliest tokens at each label, and their log-probabilities in nats."""
    taught_log_probs_NK: Tensor | None = None

    def to(self, device: torch.device) -> "View":
        moved: list[Any] = [None if tensor is None else tensor.to(device) for tensor in self]
        return View(*moved)


SHARED, PADDING = -1, -2
FLEX_BLOCK = 128
"""Tokens on a side of a block that flex attention skips, computes whole, or asks pair by pair."""


def collate(rows: Sequence[Row], pad_id: int) -> View:
    """The tensors of some rows; labels are the tokens behind each prompt (answer and EOS)."""
    shape = (len(rows), max(map(len, rows)))
    ids_BL = np.full(shape, pad_id, dtype=np.int64)
    positions_BL = np.zeros(shape, dtype=np.int64)
    mask_BL = np.zeros(shape, dtype=np.int64)
    branch_BL = np.full(shape, PADDING, dtype=np.int64)
    examples: list[tuple[int, int, Branch]] = []
    labels: list[tuple[int, int, int]] = []
    for number, row in enumerate(rows):
        ids_BL[number, : len(row)] = row.input_ids
        positions_BL[number, : len(row)] = row.position_ids
        mask_BL[number, : len(row)] = 1
        branch_BL[number, : row.num_shared] = SHARED
        for place, branch in enumerate(row.branches):
            branch_BL[number, branch.start : branch.end] = place
            for position in range(branch.prompt_end - 1, branch.end - 1):
                labels.append((len(examples), position, int(row.input_ids[position + 1])))
            examples.append((number, row.num_shared, branch))
    tree = any(len(row.branches) > 1 for row in rows)
    label_3N = torch.tensor(labels, dtype=torch.long).reshape(-1, 3).T
    return View(
        torch.from_numpy(ids_BL),
        torch.from_numpy(positions_BL),
        torch.from_numpy(mask_BL),
        torch.from_numpy(branch_BL) if tree else None,
        torch.tensor([number for number, _, _ in examples]),
        torch.tensor([num_shared for _, num_shared, _ in examples]),
        torch.tensor([branch.start for _, _, branch in examples]),
        torch.tensor([branch.prompt_end for _, _, branch in examples]),
        torch.tensor([branch.end for _, _, branch in examples]),
        *label_3N.unbind(),
    )


def pad(input_ids: Sequence[Ints], position_ids: Sequence[Ints], prompt_ends: Sequence[int], pad_id: int) -> View:
    """The tensors of views that are a row each."""
    return collate([row_of_one(*view) for view in zip(input_ids, position_ids, prompt_ends, strict=True)], pad_id)


def tree_mask(view: View, window: int | None, added_dtype: torch.dtype | None = None) -> Tensor:
    """Who sees whom in rows with branches, shape (B, 1, L, L).

    A token of a branch sees the context and its own branch up to itself. A window goes by position, not by place in
    the row. SDPA takes booleans; eager attention adds the mask, in `added_dtype`.
    """
    assert view.branch_BL is not None
    query_BL1, key_B1L = view.branch_BL[:, :, None], view.branch_BL[:, None, :]
    distance_BLL = view.position_ids_BL[:, :, None] - view.position_ids_BL[:, None, :]
    # Padding sees the context and itself: a row of attention that sees nothing would be NaN.
    seen_BLL = ((key_B1L == SHARED) | (key_B1L == query_BL1)) & (distance_BLL >= 0)
    if window is not None:
        seen_BLL &= distance_BLL < window
        seen_BLL |= torch.eye(seen_BLL.shape[1], dtype=torch.bool, device=seen_BLL.device)
    if added_dtype is None:
        return seen_BLL[:, None]
    return torch.zeros_like(seen_BLL, dtype=added_dtype).masked_fill(~seen_BLL, -torch.inf)[:, None]


def block_mask(view: View, window: int | None) -> Any:
    """`tree_mask` for flex attention, never held whole: what create_block_mask does, a row of blocks at a time.

    (create_block_mask itself holds L x L flags and, before them, several L x L integers: at 32,768 tokens 8 GiB each.)
    """
    from torch.nn.attention.flex_attention import BlockMask

    branch_BL, position_BL = view.branch_BL, view.position_ids_BL
    assert branch_BL is not None

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = position_BL[row, query] - position_BL[row, key]
        found = (branch_BL[row, key] == SHARED) | (branch_BL[row, key] == branch_BL[row, query])
        found = found & (distance >= 0)
        return found if window is None else (found & (distance < window)) | (query == key)

    num_rows, num_tokens = branch_BL.shape
    num_blocks = -(-num_tokens // FLEX_BLOCK)
    device = branch_BL.device
    row_B11 = torch.arange(num_rows, device=device)[:, None, None]
    token_L = torch.arange(num_tokens, device=device)
    counts: list[Tensor] = []
    for start in range(0, num_tokens, FLEX_BLOCK):
        query_Q1 = token_L[start : start + FLEX_BLOCK, None]
        seen_BQL = seen(row_B11, row_B11, query_Q1, token_L)
        beyond = (0, num_blocks * FLEX_BLOCK - num_tokens, 0, FLEX_BLOCK - len(query_Q1))
        blocks = functional.pad(seen_BQL, beyond).view(num_rows, FLEX_BLOCK, num_blocks, FLEX_BLOCK)
        counts.append(blocks.sum(dim=(1, 3)))
    count_B1KK = torch.stack(counts, dim=1)[:, None]  # pairs that see each other, by block of queries and of keys
    whole_B1KK = count_B1KK == FLEX_BLOCK**2
    return BlockMask.from_kv_blocks(
        *_listed((count_B1KK > 0) & ~whole_B1KK),
        *_listed(whole_B1KK),
        BLOCK_SIZE=FLEX_BLOCK,
        mask_mod=seen,
        seq_lengths=(num_tokens, num_tokens),
    )


def _listed(chosen_B1KK: Tensor) -> tuple[Tensor, Tensor]:
    """For each block of queries, the number of chosen blocks of keys, and all blocks, the chosen ones first."""
    order_B1KK = chosen_B1KK.int().argsort(dim=-1, descending=True, stable=True)
    return chosen_B1KK.sum(dim=-1, dtype=torch.int32), order_B1KK.int().contiguous()
