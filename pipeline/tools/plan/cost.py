"""Floating-point operations of a forward and of a training step: arithmetic alone, before anything is loaded.

One multiplication and addition is 2 FLOPs. Per token and layer: 2 x weights of its matrices, and 4 x width of the
queries for each key it is multiplied with (scores, then values). A layer's kernel skips what lies above the diagonal
only when no explicit mask is given: padded rows and a window shorter than the row come with a mask, and then all L x L
pairs are computed. Norms, activations and softmax are left out: they cost memory traffic, not FLOPs.

Backward, in units of the forward, as torch does it:
    frozen matrices (LoRA)    1 (the gradient of the input alone); trained ones 2
    attention                 2.5 (four products, and the scores again)
    checkpointing             the layers' forward again, up to the last tensor that is needed: the MLP's last matrix is
                              not (torch.utils.checkpoint, early stop); "whole" counts it, as most arithmetic does
"""

# L tokens of a row

from typing import Literal

from pipeline.tools.plan.shapes import Shape

Recompute = Literal["none", "early_stop", "whole"]
"""What backward computes again of each layer."""

_ATTENTION_BACKWARD = 2.5


def has_mask(shape: Shape, tokens: int, *, padded: bool) -> bool:
    """Whether attention is given an explicit mask, so that it computes and keeps more."""
    return padded or (shape.window is not None and shape.window < tokens)


def attention_flops(shape: Shape, tokens: int, *, masked: bool) -> float:
    """Of all layers for one row; `masked`: every pair of tokens, else those on and below the diagonal."""
    pairs = tokens**2 if masked else tokens * (tokens + 1) / 2
    return 4.0 * shape.layers * shape.attention * pairs


def matrix_flops(shape: Shape, tokens: int) -> float:
    """Of the matrices of all layers for `tokens` tokens."""
    return 2.0 * shape.layers * shape.matrix_weights * tokens


def lora_flops(shape: Shape, tokens: int, rank: int, *, embedding: bool) -> float:
    """Of the adapter's own matrices; looking rows up costs none."""
    projections = 2 * (shape.hidden + shape.attention) + 2 * (shape.hidden + shape.key_value)
    return 2.0 * rank * tokens * (shape.layers * projections + (shape.hidden if embedding else 0))


def head_flops(shape: Shape, labels: int) -> float:
    """Of the logits at `labels` positions."""
    return 2.0 * shape.hidden * shape.vocabulary * labels


def forward_flops(shape: Shape, tokens: int, *, labels: int = 0, padded: bool = False) -> float:
    """Of one row of L tokens without an adapter, logits at `labels` positions only."""
    attention = attention_flops(shape, tokens, masked=has_mask(shape, tokens, padded=padded))
    return matrix_flops(shape, tokens) + attention + head_flops(shape, labels)


def encoder_flops(shape: Shape, tokens: int) -> float:
    """Of one text of L tokens through an encoder, where every token sees every other."""
    return matrix_flops(shape, tokens) + attention_flops(shape, tokens, masked=True)


def continued_flops(shape: Shape, new_tokens: int, seen_tokens: int, *, labels: int = 0) -> float:
    """Of `new_tokens` that follow `seen_tokens` in the cache: their matrices, and all pairs with what stands there."""
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
    """Of forward and backward of one row of L tokens.

    Args:
        labels: positions that get logits.
        recompute: of the layers, in backward; "none" without activation checkpointing.
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
    again = {"none": 0.0, "whole": forward, "early_stop": forward - _last_matrix(shape, tokens)}[recompute]
    if rank is not None and embedding and recompute != "none":
        again -= 2.0 * rank * shape.hidden * tokens  # the embedding stands before the layers
    return forward + head + backward + again + (forward if cached else 0.0)


def _last_matrix(shape: Shape, tokens: int) -> float:
    return 2.0 * shape.layers * shape.hidden * shape.intermediate * tokens
