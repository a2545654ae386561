"""The masked view x' of a full view x: kept chunks stay, the others go as `mode` says (paper section 3).

    token  every masked token becomes <mask>; length and positions are those of x. The paper's form, the reference.
    skip   masked tokens are not computed; kept tokens keep their positions. Exactly "masks are not attended".
    span   one <mask> for each run of masked chunks; positions run on. Ours.
    drop   masked chunks are removed; positions run on. The paper's ablation "no masking", and retrieval at inference.

Instruction, question, answer and BOS stand outside every chunk and are never masked.
"""

# L tokens of the full view, M tokens of the masked view, C chunks of the context

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Mode = Literal["token", "skip", "span", "drop"]


class MaskedView(NamedTuple):
    """Token ids and positions, both of length M, and the number of prompt tokens (the place of the first label)."""

    input_ids: NDArray[np.int32]
    position_ids: NDArray[np.int32]
    prompt_end: int


def keep_top(ranks_C: NDArray[np.int32], top_k: int) -> NDArray[np.bool_]:
    """Tell which chunks are kept: the `top_k` best ranks (0 is best); all of them when the context has no more."""
    return np.asarray(ranks_C) < top_k


def masked_view(
    input_ids_L: NDArray[np.int32],
    chunk_starts_C: NDArray[np.int32],
    chunk_ends_C: NDArray[np.int32],
    prompt_end: int,
    kept_C: NDArray[np.bool_],
    mode: Mode,
    mask_id: int,
) -> MaskedView:
    """Mask the tokens of all chunks that are not kept. Chunks are in context order and do not overlap."""
    masked_L = np.zeros(len(input_ids_L), dtype=np.bool_)
    for start, end, kept in zip(chunk_starts_C, chunk_ends_C, kept_C, strict=True):
        masked_L[start:end] = not kept
    positions_L = np.arange(len(input_ids_L), dtype=np.int32)
    if mode == "token":
        return MaskedView(np.where(masked_L, np.int32(mask_id), input_ids_L).astype(np.int32), positions_L, prompt_end)
    stays_L = ~masked_L
    ids_L = np.asarray(input_ids_L, dtype=np.int32)
    if mode == "span":
        opens_run_L = masked_L & ~np.concatenate(([False], masked_L[:-1]))
        ids_L = np.where(opens_run_L, np.int32(mask_id), ids_L).astype(np.int32)
        stays_L = stays_L | opens_run_L
    ids_M = ids_L[stays_L]
    positions_M = positions_L[stays_L] if mode == "skip" else np.arange(len(ids_M), dtype=np.int32)
    return MaskedView(ids_M, positions_M, int(stays_L[:prompt_end].sum()))
