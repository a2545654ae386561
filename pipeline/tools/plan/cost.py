"""FLOPs and bytes of a forward, of a training step and of reading: arithmetic alone, before anything is loaded.

FLOPs. One multiplication and addition is 2 FLOPs. Each token costs, in each layer, 2 x the weights of the matrices, and
4 x the width of the queries for each key that it is multiplied with (scores, then values). The attention kernel skips
what lies above the diagonal only without an explicit mask. Padded rows and a window shorter than the row bring a mask,
and then all L x L pairs are computed. Norms, activations and softmax cost memory traffic instead and are left out.

torch's backward, in units of the forward:
    frozen matrices (LoRA)    1 (the gradient of the input alone); trained ones 2
    attention                 2.5 (four products, and the scores again)
    checkpointing             the layers' forward again, up to the last tensor that is needed, so without the MLP's last
                              matrix (torch.utils.checkpoint, early stop); "whole" counts it, as most arithmetic does

Bytes. Autograd keeps for each token in one layer of Mistral (transformers 5.23, SDPA) under LoRA on q, k, v, o with
trained norms (d hidden, a width of all queries, k width of all keys, i intermediate, h heads, r rank):

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

With an explicit mask keys and values are repeated to the width of the queries (k = a), and each layer keeps the mask as
numbers, L of them per token: at 8,192 tokens as much as twice the queries of 7B. With activation checkpointing a layer
keeps its input alone, and backward holds all of the above for one layer at a time.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from pipeline.tools.plan.model_shape import Shape

Recompute = Literal["none", "early_stop", "whole"]
"""How much of each layer backward computes again."""

OPTIMIZER_BYTES = 16
"""Bytes per trained parameter, all float32: itself, its gradient, Adam's two moments."""
HOARDED_BYTES = 32 << 20
"""The C library's allocator keeps smaller blocks that were freed; larger ones go back to the system at once."""

_ATTENTION_BACKWARD = 2.5
_RANK = 8


class Forward(NamedTuple):
    """The rows that go through the model in one forward."""

    rows: int
    tokens: int
    """Tokens of each row, padding included."""
    labels: float = 32
    """Label tokens of each row, on average."""
    padded: bool = False
    """Attention is given a mask: rows of unequal length, or a tree of questions."""

    @property
    def num_tokens(self) -> int:
        return self.rows * self.tokens

    @property
    def num_labels(self) -> int:
        return round(self.rows * self.labels)


def has_mask(shape: Shape, tokens: int, *, padded: bool) -> bool:
    """Whether attention is given an explicit mask, so that it computes and keeps more."""
    return padded or (shape.window is not None and shape.window < tokens)


def attention_flops(shape: Shape, tokens: int, *, masked: bool) -> float:
    """FLOPs of attention in all layers for one row; `masked`: over all pairs of tokens, else up to the diagonal."""
    pairs = tokens**2 if masked else tokens * (tokens + 1) / 2
    return 4.0 * shape.layers * shape.attention * pairs


def matrix_flops(shape: Shape, tokens: int) -> float:
    """FLOPs of all layers' matrices for `tokens` tokens."""
    return 2.0 * shape.layers * shape.matrix_weights * tokens


def lora_flops(shape: Shape, tokens: int, rank: int, *, embedding: bool) -> float:
    """FLOPs of the adapter's own matrices; looking up a row of the embedding costs none."""
    return 2.0 * rank * tokens * (shape.layers * shape.lora_width + (shape.hidden if embedding else 0))


def head_flops(shape: Shape, labels: int) -> float:
    """FLOPs of the logits at `labels` positions."""
    return 2.0 * shape.hidden * shape.vocabulary * labels


def forward_flops(shape: Shape, tokens: int, *, labels: int = 0, padded: bool = False) -> float:
    """FLOPs of one row of L tokens without an adapter, with logits at `labels` positions only."""
    attention = attention_flops(shape, tokens, masked=has_mask(shape, tokens, padded=padded))
    return matrix_flops(shape, tokens) + attention + head_flops(shape, labels)


def continued_flops(shape: Shape, new_tokens: int, seen_tokens: int, *, labels: int = 0) -> float:
    """FLOPs of `new_tokens` that follow `seen_tokens` in the cache and are paired with these and with each other."""
    pairs = new_tokens * (seen_tokens + new_tokens)
    attention = 4.0 * shape.layers * shape.attention * pairs
    return matrix_flops(shape, new_tokens) + attention + head_flops(shape, labels)


def training_flops(
    shape: Shape,
    tokens: int,
    *,
    labels: int,
    recompute: Recompute,
    rank: int | None,
    embedding: bool = True,
    padded: bool = False,
    cached: bool = False,
) -> float:
    """FLOPs of forward and backward of one row of L tokens.

    Args:
        labels: positions that get logits.
        recompute: how much backward computes again of the layers; "none" without activation checkpointing.
        rank: of LoRA on the attention projections (the rest frozen); None: every weight is trained.
        embedding: LoRA on the embedding too.
        padded: the row stands beside longer ones, and attention is given a mask.
        cached: gradients of the representations are cached (GradCache): one more forward without gradient.
    """
    matrices, head = matrix_flops(shape, tokens), head_flops(shape, labels)
    attention = attention_flops(shape, tokens, masked=has_mask(shape, tokens, padded=padded))
    adapter = lora_flops(shape, tokens, rank, embedding=embedding) if rank is not None else 0.0
    forward = matrices + attention + adapter
    backward = (1 if rank is not None else 2) * (matrices + head) + 2 * adapter + _ATTENTION_BACKWARD * attention
    last_matrix = 2.0 * shape.layers * shape.hidden * shape.intermediate * tokens
    again = {"none": 0.0, "whole": forward, "early_stop": forward - last_matrix}[recompute]
    if rank is not None and embedding and recompute != "none":
        again -= 2.0 * rank * shape.hidden * tokens  # the embedding stands before the layers
    return forward + head + backward + again + (forward if cached else 0.0)


def attention_rows_flops(shape: Shape, tokens: int, *, queries: float, layers: int, recompute: Recompute) -> float:
    """FLOPs of forward and backward of taught attention: the scores of `queries` tokens of a row of L in some layers.

    The bytes leave out what backward keeps of them: for the last prompt token 1 % of a layer's in float32, 3 % in
    bfloat16 under autocast.
    """
    forward = 2.0 * layers * shape.attention * tokens * queries
    return forward * (3 if recompute == "none" else 4)


def layer_bytes(shape: Shape, tokens: int, *, masked: bool, rank: int = _RANK) -> int:
    """Bytes that autograd keeps in one layer for each token of a row of L; `masked`: attention is given a mask."""
    b, d, a = shape.bytes_per_weight, shape.hidden, shape.attention
    norms = shape.norms * (4 * d + b * d + 4)
    lora = (3 * d + a if b == 2 else d) * b + 4 * b * rank
    keys = a if masked else shape.key_value
    attention = b * (2 * a + 2 * keys) + 4 * shape.heads + (b * tokens if masked else 0)
    return norms + lora + attention + 3 * b * shape.intermediate


def _batch_layer_bytes(shape: Shape, batch: Forward, rank: int) -> int:
    masked = has_mask(shape, batch.tokens, padded=batch.padded)
    return batch.num_tokens * layer_bytes(shape, batch.tokens, masked=masked, rank=rank)


def saved_bytes(shape: Shape, batch: Forward, *, checkpointing: bool, rank: int = _RANK) -> int:
    """Bytes that autograd keeps from a forward to its backward, logits at the labels included, parameters not."""
    b, d = shape.bytes_per_weight, shape.hidden
    layer = batch.num_tokens * b * d if checkpointing else _batch_layer_bytes(shape, batch, rank)
    embedding = batch.num_tokens * (rank * b + 8)  # LoRA between A and B, and the ids
    last_norm = batch.num_tokens * (4 * d + b * d + 4)
    return shape.layers * layer + embedding + last_norm + 4 * batch.num_labels * shape.vocabulary


def working_bytes(shape: Shape, batch: Forward, *, checkpointing: bool, rank: int = _RANK) -> int:
    """Bytes that backward holds at its peak, beside those that were saved for it.

    In a layer these are the gradients of the MLP's three inner states and of the residual stream, and with
    checkpointing all that it recomputes. At the logits they are the float32 copy, its gradient, and the softmax.
    """
    b = shape.bytes_per_weight
    inside = batch.num_tokens * (3 * b * shape.intermediate + 3 * 4 * shape.hidden)
    if checkpointing:
        inside += _batch_layer_bytes(shape, batch, rank)
    logits = batch.num_labels * shape.vocabulary * (8 + b)
    # The mask of booleans is shared by the layers.
    mask = batch.rows * batch.tokens**2 if has_mask(shape, batch.tokens, padded=batch.padded) else 0
    return max(inside, logits) + mask


def state_bytes(shape: Shape, num_trainable: int) -> int:
    """Bytes of the weights, and of the adapter with its gradient and its optimizer."""
    return shape.weight_bytes + OPTIMIZER_BYTES * num_trainable


def train_peak_bytes(
    shape: Shape,
    batches: Sequence[Forward],
    *,
    retained: bool,
    checkpointing: bool,
    num_trainable: int,
    rank: int = _RANK,
    hoard: float = 1.0,
) -> float:
    """Largest memory of one optimizer step, without what Python and its libraries take themselves.

    Args:
        batches: the forwards of the step over both views, in any order.
        retained: every forward is kept until one backward (negatives: graph); else each forward is followed by its own
            backward (negatives: cached, and vanilla training in parts).
        hoard: bytes held by the allocator for each byte in use, where the step's blocks are small.
    """
    saved = [saved_bytes(shape, batch, checkpointing=checkpointing, rank=rank) for batch in batches]
    working = [working_bytes(shape, batch, checkpointing=checkpointing, rank=rank) for batch in batches]
    step = sum(saved) + max(working) if retained else max(map(sum, zip(saved, working, strict=True)))
    block = max(batch.num_tokens for batch in batches) * shape.intermediate * shape.bytes_per_weight
    return state_bytes(shape, num_trainable) + step * (hoard if block < HOARDED_BYTES else 1.0)


def read_peak_bytes(shape: Shape, batch: Forward, cached_tokens: int) -> int:
    """Largest memory of reading a batch without gradient while `cached_tokens` tokens are in the cache."""
    b = shape.bytes_per_weight
    inside = batch.num_tokens * b * (3 * shape.intermediate + 3 * shape.hidden)
    mask = (1 + b) * batch.rows * batch.tokens**2 if has_mask(shape, batch.tokens, padded=batch.padded) else 0
    return shape.weight_bytes + inside + mask + cached_tokens * shape.cache_bytes
