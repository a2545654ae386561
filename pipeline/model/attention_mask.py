"""Attention masks of rows in which several questions share one context."""

# B rows, L tokens of the longest row, N chosen tokens

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.model.collator import SHARED, ModelInputs

FLEX_BLOCK = 128
"""Tokens on a side of a block that flex attention skips, computes whole, or asks pair by pair."""


def tree_mask(inputs: ModelInputs, window: int | None, added_dtype: torch.dtype | None = None) -> Tensor:
    """Return which tokens each token attends to, shape (B, 1, L, L).

    A token of a segment attends to the context and to its own segment up to itself. A window counts positions, not
    places in the row. SDPA takes booleans; eager attention adds the mask, in `added_dtype`.
    """
    assert inputs.segment_BL is not None
    distance_BLL = inputs.position_ids_BL[:, :, None] - inputs.position_ids_BL[:, None, :]
    # Padding attends to the context and itself: attention over nothing would be NaN.
    seen_BLL = _seen(inputs.segment_BL[:, :, None], inputs.segment_BL[:, None, :], distance_BLL)
    if window is not None:
        seen_BLL &= distance_BLL < window
        seen_BLL |= torch.eye(seen_BLL.shape[1], dtype=torch.bool, device=seen_BLL.device)
    if added_dtype is None:
        return seen_BLL[:, None]
    return torch.zeros_like(seen_BLL, dtype=added_dtype).masked_fill(~seen_BLL, -torch.inf)[:, None]


def seen_by(inputs: ModelInputs, row_N: Tensor, position_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens each chosen token can see without a window, and how many positions before it they stand.

    Shapes (N, L). Chosen are tokens by row and position in the row, none of them padding.
    """
    position_ids_NL = inputs.position_ids_BL[row_N]
    distance_NL = position_ids_NL.gather(1, position_N[:, None]) - position_ids_NL
    if inputs.segment_BL is not None:
        segment_NL = inputs.segment_BL[row_N]
        return _seen(segment_NL.gather(1, position_N[:, None]), segment_NL, distance_NL), distance_NL
    return torch.arange(distance_NL.shape[1], device=row_N.device) <= position_N[:, None], distance_NL


def _seen(query_segment: Tensor, key_segment: Tensor, distance: Tensor) -> Tensor:
    return ((key_segment == SHARED) | (key_segment == query_segment)) & (distance >= 0)


def block_mask(inputs: ModelInputs, window: int | None) -> Any:
    """Return `tree_mask` as a BlockMask for flex attention, computed one row of blocks at a time.

    (torch's create_block_mask holds L x L flags and, before them, several L x L integers: at 32,768 tokens 8 GiB each.)
    """
    from torch.nn.attention.flex_attention import BlockMask

    segment_BL, position_BL = inputs.segment_BL, inputs.position_ids_BL
    assert segment_BL is not None

    def seen(row: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        distance = position_BL[row, query] - position_BL[row, key]
        found = _seen(segment_BL[row, query], segment_BL[row, key], distance)
        return found if window is None else (found & (distance < window)) | (query == key)

    num_rows, num_tokens = segment_BL.shape
    num_blocks = -(-num_tokens // FLEX_BLOCK)
    device = segment_BL.device
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
    """For each block of queries: the number of chosen blocks of keys, and all blocks, the chosen ones first."""
    order_B1KK = chosen_B1KK.int().argsort(dim=-1, descending=True, stable=True)
    return chosen_B1KK.sum(dim=-1, dtype=torch.int32), order_B1KK.int().contiguous()
