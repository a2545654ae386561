"""Answers to many questions over one context, which the model reads once; options are weighed in the same pass.

The context (the prefix) leaves its keys and values in a cache of one row. The questions behind it (branches) and the
options of each follow in that row as a tree: a token sees the prefix, its own question and its own option so far, and
nothing of its neighbours. Every branch counts its positions on from the prefix, and a sliding window goes by position,
not by place in the row. So each number is that of a forward of its own, at the price of one. New tokens join the tree,
one of each unfinished branch at a time.
"""

# T tokens of a pass, K tokens of the tree, B branches, N option tokens, D hidden, V vocabulary

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.model import generation
from pipeline.model.causal_lm import windows
from pipeline.model.generation import Prompt

PASS_TOKENS = 4096  # more in one pass gain nothing: attention computes what the mask hides, and the mask is T x K
LOGIT_ROWS = 512  # rows of option logits held at a time

_SHARED = -1  # the branch of the prefix, the option of what stands before the options


@dataclass(frozen=True)
class Branch:
    """Token ids of a question behind the prefix, and those of each option's answer; none of them empty."""

    suffix_ids: Prompt
    options: Sequence[Prompt] = ()

    @property
    def num_read(self) -> int:
        """Tokens the model reads; of an option's last one it only tells the probability."""
        return len(self.suffix_ids) + sum(len(option) - 1 for option in self.options)


@dataclass(frozen=True)
class Answered:
    """What the model says to a branch."""

    output_ids: list[int]
    """Generated, EOS left out."""
    log_probs: list[float]
    """Of each option, summed over its tokens, in nats."""
    num_tokens: list[int]
    """Of each option."""


@torch.inference_mode()
def answer(
    network: PreTrainedModel | PeftModel,
    prefix_ids: Prompt,
    branches: Sequence[Branch],
    *,
    max_new_tokens: int,
    eos_id: int,
    banned_ids: Sequence[int],
    batch_tokens: int,
) -> list[Answered]:
    """The most likely tokens behind prefix and suffix, by the rules of generation.generate, and each option's weight.

    The prefix is read in one pass and may be empty. A later pass reads at most `batch_tokens` tokens of suffixes and
    options, never more than PASS_TOKENS, and at least one branch; which branches share it changes no result beyond
    rounding. `banned_ids` are never generated; in the options they count like any token.

    Raises:
        ConfigError: the model has layers that attend in another way than to everything or to a window.
        NumericError: a logit is NaN or infinite.
    """
    assert all(len(branch.suffix_ids) and all(map(len, branch.options)) for branch in branches)
    if not branches:
        return []
    causal_lm: Any = network.get_base_model() if isinstance(network, PeftModel) else network
    was_training = network.training
    network.eval()
    try:
        tree = _Tree(causal_lm, prefix_ids)
        answered: list[Answered] = []
        for pack in packs(branches, min(batch_tokens, PASS_TOKENS)):
            log_probs, hidden_BD = _weigh(tree, pack)
            outputs = _complete(tree, pack, hidden_BD, max_new_tokens, eos_id, list(banned_ids))
            for branch, output, found in zip(pack, outputs, log_probs, strict=True):
                answered.append(Answered(output, found, [len(option) for option in branch.options]))
            tree.crop(tree.num_tokens - len(prefix_ids))
    finally:
        network.train(was_training)
    return answered


def packs(branches: Sequence[Branch], pass_tokens: int) -> Iterator[list[Branch]]:
    """Neighbours that share a pass: at most `pass_tokens` tokens to read, at least one branch."""
    pack: list[Branch] = []
    for branch in branches:
        if pack and sum(member.num_read for member in pack) + branch.num_read > pass_tokens:
            yield pack
            pack = []
        pack.append(branch)
    if pack:
        yield pack


class _Tree:
    """Tokens in a cache of one row, each of which sees its ancestors only."""

    def __init__(self, causal_lm: Any, prefix_ids: Prompt) -> None:
        self.head = causal_lm.get_output_embeddings()
        self.device: torch.device = causal_lm.device
        self._backbone = causal_lm.base_model
        self._windows = windows(causal_lm.config)
        implementation = causal_lm.config._attn_implementation
        assert implementation in ("sdpa", "eager"), implementation
        # SDPA takes a mask of booleans; eager attention adds the mask, and would add True as 1.
        self._added_dtype = causal_lm.dtype if implementation == "eager" else None
        self.num_prefix = len(prefix_ids)
        # Without the config every layer keeps every token: a window that has passed the end of the prefix in one
        # branch has not in the next.
        self._cache = DynamicCache()
        self._nodes_3K = torch.full((3, len(prefix_ids)), _SHARED, device=self.device)
        self._nodes_3K[0] = torch.arange(len(prefix_ids), device=self.device)
        if len(prefix_ids):
            # Without a mask and positions transformers takes causal attention, with its own window, over 0..K-1.
            ids_K = torch.as_tensor(prefix_ids, dtype=torch.long, device=self.device)
            self._backbone(input_ids=ids_K[None], past_key_values=self._cache, use_cache=True)

    @property
    def num_tokens(self) -> int:
        return self._nodes_3K.shape[1]

    def grow(self, ids_T: Tensor, nodes_3T: Tensor) -> Tensor:
        """Hidden states (T, D) of new tokens; `nodes_3T` are the position, the branch and the option of each."""
        self._nodes_3K = torch.cat([self._nodes_3K, nodes_3T], dim=1)
        masks = {kind: self._mask(nodes_3T, window) for kind, window in self._windows.items()}
        hidden_TD: Tensor = self._backbone(
            input_ids=ids_T[None],
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=nodes_3T[:1],
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state[0]
        return hidden_TD

    def crop(self, num_tokens: int) -> None:
        """Forget the newest tokens."""
        self._cache.crop(-num_tokens)  # transformers 5 takes how many go, as a negative number
        self._nodes_3K = self._nodes_3K[:, : self.num_tokens - num_tokens]

    def _mask(self, nodes_3T: Tensor, window: int | None) -> Tensor:
        """Which tokens of the tree (K) each new one (T) sees, in the form that attention takes: shape (1, 1, T, K)."""
        position_T1, branch_T1, option_T1 = nodes_3T[:, :, None].unbind()
        position_K, branch_K, option_K = self._nodes_3K.unbind()
        seen_TK = (branch_K == _SHARED) | (branch_K == branch_T1)
        seen_TK &= (option_K == _SHARED) | (option_K == option_T1)
        seen_TK &= position_K <= position_T1
        if window is not None:
            seen_TK &= position_K > position_T1 - window
        if self._added_dtype is None:
            return seen_TK[None, None]
        return torch.where(seen_TK, 0.0, -torch.inf).to(self._added_dtype)[None, None]


def _weigh(tree: _Tree, pack: Sequence[Branch]) -> tuple[list[list[float]], Tensor]:
    """Read suffixes and options in one pass: log-probabilities by branch and option, hidden states (B, D) of the ends.

    Options leave the tree again, suffixes stay.
    """
    ids: list[int] = []
    nodes: list[tuple[int, int, int]] = []
    for index, branch in enumerate(pack):
        ids.extend(branch.suffix_ids)  # += would let an array add itself to the list
        nodes += [(tree.num_prefix + place, index, _SHARED) for place in range(len(branch.suffix_ids))]
    num_suffix = len(ids)
    ends = [end - 1 for end in accumulate(len(branch.suffix_ids) for branch in pack)]
    # An option's first token is foretold by the end of the suffix, each other one by the token before it.
    rows: list[int] = []
    for index, branch in enumerate(pack):
        for number, option in enumerate(branch.options):
            rows += [ends[index], *range(len(ids), len(ids) + len(option) - 1)]
            ids.extend(option[:-1])
            start = tree.num_prefix + len(branch.suffix_ids)
            nodes += [(start + place, index, number) for place in range(len(option) - 1)]
    nodes_3T = torch.tensor(nodes, device=tree.device).T
    hidden_TD = tree.grow(torch.tensor(ids, dtype=torch.long, device=tree.device), nodes_3T)
    targets = [token for branch in pack for option in branch.options for token in option]
    found = iter(_log_probs(tree.head, hidden_TD, nodes_3T[0] + 1, rows, targets))
    log_probs = [[sum(next(found) for _ in option) for option in branch.options] for branch in pack]
    tree.crop(len(ids) - num_suffix)
    return log_probs, hidden_TD[ends]


def _log_probs(
    head: Any, hidden_TD: Tensor, length_T: Tensor, rows: Sequence[int], targets: Sequence[int]
) -> list[float]:
    """Log-probability of each target (N) by the hidden state in its row, up to which stand `length_T` tokens."""
    log_probs: list[float] = []
    for start in range(0, len(targets), LOGIT_ROWS):
        row_N = torch.tensor(rows[start : start + LOGIT_ROWS], device=hidden_TD.device)
        target_N = torch.tensor(targets[start : start + LOGIT_ROWS], dtype=torch.long, device=hidden_TD.device)
        logits_NV = head(hidden_TD[row_N])
        generation.require_finite(logits_NV, length_T[row_N])
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        log_probs += (logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(dim=1)).tolist()
    return log_probs


def _complete(
    tree: _Tree, pack: Sequence[Branch], hidden_BD: Tensor, max_new_tokens: int, eos_id: int, banned_ids: list[int]
) -> list[list[int]]:
    """Greedy tokens of each branch; `hidden_BD` are of the ends of the suffixes."""
    outputs: list[list[int]] = [[] for _ in pack]
    branch_B = torch.arange(len(pack), device=tree.device)
    length_B = torch.tensor([tree.num_prefix + len(branch.suffix_ids) for branch in pack], device=tree.device)
    for num_new in range(max_new_tokens):
        next_B = generation.most_likely(tree.head(hidden_BD), banned_ids, length_B)
        going_B = next_B != eos_id
        next_B, branch_B, length_B = next_B[going_B], branch_B[going_B], length_B[going_B]
        for index, token in zip(branch_B.tolist(), next_B.tolist(), strict=True):
            outputs[index].append(token)
        if not len(next_B) or num_new + 1 == max_new_tokens:
            break
        nodes_3B = torch.stack([length_B + num_new, branch_B, torch.full_like(branch_B, _SHARED)])
        hidden_BD = tree.grow(next_B, nodes_3B)
    return outputs
