"""Attention taught by the retriever (ours): the model learns to look where the retriever would.

The chosen tokens of a full view, by default the last prompt token, give each chunk some share of their attention. The
loss is the KL divergence from the shares that the retriever's scores ask for to these shares, averaged over the chosen
tokens and layers. Attention to tokens outside of all chunks counts as lost. No label is read. Near relatives: soft
targets of attention from evidence at test time (EASE-TTT, arXiv 2606.06906), contrast of single heads (MuDAF, arXiv
2502.13963).
"""

# B rows, L tokens, E examples of the rows, N chosen tokens, H heads, C chunks

from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.model.attention_rows import AttentionRows
from pipeline.model.collator import NO_CHUNK, ModelInputs

Queries = Literal["last_prompt", "question", "answer"]
Heads = Literal["mean", "best"]
Target = Literal["top", "soft"]


class AttentionTarget(NamedTuple):
    """How the retriever's scores become the shares of attention that the chunks should get."""

    kind: Target
    """top: the best chunks get equal shares. soft: a softmax of the scores."""
    top_k: int
    temperature: float
    """Of the softmax, in units of the scores."""

    def shares(self, scores_C: NDArray[np.float32], ranks_C: NDArray[np.int32]) -> NDArray[np.float32]:
        """Return the share of each chunk, shape (C,); they sum to 1."""
        logits_C = np.where(ranks_C < self.top_k, 0.0, -np.inf)
        if self.kind == "soft":
            logits_C = scores_C.astype(np.float64) / self.temperature
        shares_C = np.exp(logits_C - logits_C.max())
        shares_C /= shares_C.sum()
        return np.asarray(shares_C, dtype=np.float32)


class AttentionLoss(NamedTuple):
    """Which attention is taught."""

    layers: tuple[int, ...] | None
    """From 0; None: all."""
    heads: Heads
    """mean: the heads' mean attention is compared with the target. best: that of the head nearest to it, by token."""
    queries: Queries
    """answer: the tokens that predict the answer's tokens; the last prompt token is the first of them."""

    def rows(self, inputs: ModelInputs) -> AttentionRows | None:
        """Return the rows of attention to read; None where no example has a target."""
        if inputs.target_EC is None or inputs.chunk_BL is None:
            return None
        example_N, position_N = self._chosen(inputs)
        row_N, target_NC = inputs.row_E[example_N], inputs.target_EC[example_N]
        num_chunks = target_NC.shape[1]
        chunk_NL = inputs.chunk_BL[row_N].masked_fill(inputs.chunk_BL[row_N] == NO_CHUNK, num_chunks)

        def divergence(weights_NHL: Tensor, seen_NL: Tensor) -> Tensor:
            mass_NHC = _by_chunk(weights_NHL, chunk_NL, num_chunks)
            # A chunk that was cut off or lies outside the layer's window cannot be asked for.
            target_seen_NC = target_NC * (_by_chunk(seen_NL[:, None].float(), chunk_NL, num_chunks)[:, 0] > 0)
            target_NHC = (target_seen_NC / target_seen_NC.sum(dim=1, keepdim=True).clamp(min=_tiny(target_NC)))[:, None]
            if self.heads == "mean":
                mass_NHC = mass_NHC.mean(dim=1, keepdim=True)
            log_mass_NHC = mass_NHC.clamp(min=_tiny(mass_NHC)).log()
            divergence_NH = (torch.xlogy(target_NHC, target_NHC) - target_NHC * log_mass_NHC).sum(dim=2)
            lowest_N: Tensor = divergence_NH.amin(dim=1)
            return torch.zeros(len(inputs.row_E), dtype=lowest_N.dtype, device=lowest_N.device).index_add(
                0, example_N, lowest_N / torch.bincount(example_N)[example_N]
            )

        return AttentionRows(inputs, row_N, position_N, divergence, self.layers)

    def _chosen(self, inputs: ModelInputs) -> tuple[Tensor, Tensor]:
        """Return example and position of each chosen token; examples without a target have none."""
        assert inputs.target_EC is not None and inputs.chunk_BL is not None
        last_E = inputs.prompt_end_E - 1
        spans = {
            "last_prompt": (last_E, inputs.prompt_end_E),
            "question": (_question_starts(inputs.chunk_BL, inputs), inputs.prompt_end_E),
            "answer": (last_E, inputs.end_E - 1),
        }
        first_E, end_E = spans[self.queries]
        num_E = (end_E - first_E).clamp(min=1) * (inputs.target_EC.sum(dim=1) > 0)
        example_N = torch.repeat_interleave(num_E)
        before_E = num_E.cumsum(dim=0) - num_E
        return example_N, first_E[example_N] + torch.arange(len(example_N), device=num_E.device) - before_E[example_N]


def mean_over_layers(found: AttentionRows) -> Tensor:
    """Return each example's divergence in nats, shape (E,)."""
    return torch.stack([*found.reduced.values()]).mean(dim=0)


def _question_starts(chunk_BL: Tensor, inputs: ModelInputs) -> Tensor:
    """Return the position of each question's first token: behind the context, in the example's own segment."""
    place_L = torch.arange(chunk_BL.shape[1], device=chunk_BL.device)
    context_end_B = ((chunk_BL != NO_CHUNK) * (place_L + 1)).amax(dim=1)
    return torch.maximum(inputs.start_E, context_end_B[inputs.row_E])


def _by_chunk(values_NHL: Tensor, chunk_NL: Tensor, num_chunks: int) -> Tensor:
    """Sum values over the tokens of each chunk, shape (N, H, C)."""
    sums = values_NHL.new_zeros(*values_NHL.shape[:2], num_chunks + 1)
    return sums.scatter_add(2, chunk_NL[:, None].expand_as(values_NHL), values_NHL)[..., :num_chunks]


def _tiny(values: Tensor) -> float:
    return torch.finfo(values.dtype).tiny
