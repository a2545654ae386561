"""Bytes of a training step and of reading: arithmetic alone, before anything is loaded.

What autograd keeps of one layer of Mistral (transformers 5.23, SDPA) under LoRA on q, k, v, o with trained norms, per
token, d hidden, a width of all queries, k that of all keys, i intermediate, h heads, r rank:

                           float32              bfloat16 weights under autocast, float32 adapter
    input of both norms    2 x 4d               2 x 4d     (the norm computes in float32)
    normed, both           2 x 4d               2 x 2d     (gradient of the norm's weight)
    1 / RMS, both          2 x 4                2 x 4
    input of LoRA on q,k,v 4d                   3 x 2d     (autocast casts for each of them anew)
    query, key, value      4a + 8k              2a + 4k
    attention's output     4a                   2 x 2a     (once more as the input of LoRA on o)
    log-sum of softmax     4h                   4h
    LoRA between A and B   4 x 4r               4 x 2r
    gate, SiLU, up         3 x 4i               3 x 2i

With an explicit mask (padded rows, or a window shorter than the row) keys and values are repeated to the width of the
queries (k = a), and each layer keeps the mask as numbers, L of them per token: at 8,192 tokens as much as the queries
of 7B twice. With activation checkpointing a layer keeps its input alone, and backward holds all of the above for one
layer at a time.
"""

# B rows, L tokens of a row, N label tokens

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.tools.plan import cost
from pipeline.tools.plan.shapes import Shape

OPTIMIZER = 16
"""Bytes per trained parameter, all float32: itself, its gradient, Adam's two moments."""
HOARDED_BYTES = 32 << 20
"""The C library's allocator keeps smaller blocks that were freed; larger ones go back to the system at once."""
_RANK = 8
_LABELS = 32


class Pack(NamedTuple):
    """What goes through the model in one forward."""

    rows: int
    tokens: int
    """Of each row, padding included."""
    labels: int | None = None
    """Label tokens of all rows; None: 32 of each."""
    padded: bool | None = None
    """Attention is given a mask: rows of unequal length, or a tree of questions. None: from two rows on."""


def layer_bytes(shape: Shape, tokens: int, *, masked: bool, rank: int = _RANK) -> int:
    """Kept by autograd of one layer for one token of a row of L tokens; `masked`: attention is given a mask."""
    b, d, a = shape.bytes_per_weight, shape.hidden, shape.attention
    mixed = b == 2
    norms = 2 * (4 * d + b * d + 4)
    lora = (3 * d + a if mixed else d) * b + 4 * b * rank
    keys = a if masked else shape.key_value
    attention = b * (2 * a + 2 * keys) + 4 * shape.heads + (b * tokens if masked else 0)
    return norms + lora + attention + 3 * b * shape.intermediate


def saved_bytes(shape: Shape, batch: Pack, *, checkpointing: bool, rank: int = _RANK) -> int:
    """Kept by autograd from a forward to its backward, logits at the labels included; parameters are not."""
    b, d = shape.bytes_per_weight, shape.hidden
    num_tokens = batch.rows * batch.tokens
    if checkpointing:
        layers = num_tokens * shape.layers * b * d
    else:
        layers = num_tokens * shape.layers * layer_bytes(shape, batch.tokens, masked=masked(shape, batch), rank=rank)
    embedding = num_tokens * (rank * b + 8)  # LoRA between A and B, and the ids
    last_norm = num_tokens * (4 * d + b * d + 4)
    return layers + embedding + last_norm + 4 * num_labels(batch) * shape.vocabulary


def working_bytes(shape: Shape, batch: Pack, *, checkpointing: bool, rank: int = _RANK) -> int:
    """Beside what is kept: what backward holds at once, in its largest moment.

    Of a layer: the gradients of the MLP's three inner states and of the residual stream, and with checkpointing all
    that it recomputes. At the logits: the float32 copy, its gradient, and the softmax.
    """
    b, num_tokens = shape.bytes_per_weight, batch.rows * batch.tokens
    inside = num_tokens * (3 * b * shape.intermediate + 3 * 4 * shape.hidden)
    if checkpointing:
        inside += num_tokens * layer_bytes(shape, batch.tokens, masked=masked(shape, batch), rank=rank)
    logits = num_labels(batch) * shape.vocabulary * (8 + b)
    mask = batch.rows * batch.tokens**2 if masked(shape, batch) else 0  # of booleans, shared by the layers
    return max(inside, logits) + mask


def state_bytes(shape: Shape, num_trainable: int) -> int:
    """Weights, and adapter with gradient and optimizer."""
    return shape.weight_bytes + OPTIMIZER * num_trainable


def train_peak_bytes(
    shape: Shape,
    packs: Sequence[Pack],
    *,
    retained: bool,
    checkpointing: bool,
    num_trainable: int,
    rank: int = _RANK,
) -> int:
    """Largest memory of one optimizer step, without what Python and its libraries take themselves.

    Args:
        shape: of the base; its bytes_per_weight says in what numbers activations are kept.
        packs: of the step, both views', in any order; plain (rows, tokens) pairs wrapped in Pack.
        retained: every forward is kept until one backward (negatives: graph); else one after the other, each forward
            followed by its backward (negatives: cached, and vanilla training in parts).
        checkpointing: activation checkpointing of every layer.
        num_trainable: trained parameters, float32.
        rank: of LoRA.
    """
    saved = [saved_bytes(shape, batch, checkpointing=checkpointing, rank=rank) for batch in packs]
    working = [working_bytes(shape, batch, checkpointing=checkpointing, rank=rank) for batch in packs]
    if retained:
        step = sum(saved) + max(working)
    else:
        step = max(kept + at_work for kept, at_work in zip(saved, working, strict=True))
    return state_bytes(shape, num_trainable) + step


def process_peak_bytes(
    shape: Shape,
    packs: Sequence[Pack],
    *,
    retained: bool,
    checkpointing: bool,
    num_trainable: int,
    overhead: float,
    hoard: float,
    rank: int = _RANK,
) -> float:
    """`train_peak_bytes` of a whole process: what libraries take (`overhead`), and `hoard` bytes held for each byte in
    use where the step's blocks are small."""
    peak = train_peak_bytes(
        shape, packs, retained=retained, checkpointing=checkpointing, num_trainable=num_trainable, rank=rank
    )
    state = state_bytes(shape, num_trainable)
    block = max(pack.rows * pack.tokens for pack in packs) * shape.intermediate * shape.bytes_per_weight
    return overhead + state + (peak - state) * (hoard if block < HOARDED_BYTES else 1.0)


def read_peak_bytes(shape: Shape, batch: Pack, cached_tokens: int) -> int:
    """Largest memory of reading a batch without gradient while `cached_tokens` tokens stand in the cache."""
    b, num_tokens = shape.bytes_per_weight, batch.rows * batch.tokens
    inside = num_tokens * b * (3 * shape.intermediate + 3 * shape.hidden)
    mask = (1 + b) * batch.rows * batch.tokens**2 if masked(shape, batch) else 0
    return shape.weight_bytes + inside + mask + cached_tokens * shape.cache_bytes


def masked(shape: Shape, batch: Pack) -> bool:
    """Whether attention is given a mask for this batch."""
    padded = batch.rows > 1 if batch.padded is None else batch.padded
    return cost.has_mask(shape, batch.tokens, padded=padded)


def num_labels(batch: Pack) -> int:
    """Label tokens of all rows."""
    return _LABELS * batch.rows if batch.labels is None else batch.labels
