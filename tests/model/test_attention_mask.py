"""Attention masks of rows in which several questions share one context."""

import numpy as np
import pytest
import torch

from pipeline.model import attention_mask, collator


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")  # torch, by itself
@pytest.mark.parametrize("window", [None, 150])
@pytest.mark.parametrize("num_shared", [256, 300])
def test_a_block_mask_made_by_rows_of_blocks_is_that_of_create_block_mask(num_shared, window):
    """Two rows of several blocks, of unequal length, with skipped, whole and partial blocks."""
    from torch.nn.attention.flex_attention import create_block_mask

    ids = [np.arange(num_shared + own, dtype=np.int32) for own in (140, 300, 5)]
    views = [collator.row_of_one(ids_L, ids_L, len(ids_L) - 2) for ids_L in ids]
    made = [collator.row_of_many(views, num_shared), collator.row_of_many(views[:2], num_shared)]
    view = collator.collate(made, pad_id=0)
    ours = attention_mask.block_mask(view, window)
    theirs = create_block_mask(ours.mask_mod, 2, None, *ours.seq_lengths, device="cpu")
    for side in ("kv", "full_kv", "q", "full_q"):
        for name in (f"{side}_num_blocks", f"{side}_indices"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.shape == theirs.shape
    blocks = ours.kv_num_blocks.shape[-1]
    partial, whole = (int(counts[0].sum()) for counts in (ours.kv_num_blocks, ours.full_kv_num_blocks))
    assert partial > 0 and partial + whole < blocks**2
    assert whole > 0 or window
