"""Prefix cache: the model reads a context once, then answers many questions over it and scores their options.

The context (the prefix) leaves its keys and values in a cache of one row. The questions (suffixes) and the options of
each follow in that row as a tree: a token attends to the prefix, its own question and its own option so far, and not
to other questions or options. Each suffix continues the prefix's positions, and a sliding window counts positions, not
places in the row. So every result equals that of a forward of its own. Generated tokens join the tree, one of each
unfinished suffix at a time.
"""

# T tokens of a pass, K tokens of the tree, B suffixes, N option tokens, D hidden, V vocabulary

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from pipeline.model import causal_lm, generation
from pipeline.model.generation import Prompt

PASS_TOKENS = 4096  # more in one pass gain nothing: attention computes what the mask hides, and the mask is T x K
LOGIT_ROWS = 512  # rows of option logits held at a time

_SHARED = -1  # suffix number of the prefix's tokens, option number of tokens that precede the options


@dataclass(frozen=True)
class Suffix:
    """Token ids of a question behind the prefix, and of each option's answer; none of them empty."""

    suffix_ids: Prompt
    options: Sequence[Prompt] = ()

    @property
    def num_read(self) -> int:
        """Tokens the model reads; it reads all but the last token of an option."""
        return len(self.suffix_ids) + sum(len(option) - 1 for option in self.options)


@dataclass(frozen=True)
class Completion:
    """The generated answer to a suffix, and the log-likelihood of its options."""

    output_ids: list[int]
    """Without EOS."""
    log_probs: list[float]
    """Log-probability of each option, summed over its tokens, in nats."""


@torch.inference_mode()
def answer(
    network: PreTrainedModel | PeftModel,
    prefix_ids: Prompt,
    suffixes: Sequence[Suffix],
    *,
    max_new_tokens: int,
    eos_ids: Sequence[int],
    banned_ids: Sequence[int],
    batch_tokens: int,
) -> list[Completion]:
    """Generate greedily behind prefix and suffix, as generation.generate does, and score each option.

    The prefix is read in one pass and may be empty. A later pass reads at most `batch_tokens` tokens of suffixes and
    options, never more than PASS_TOKENS, and at least one suffix; which suffixes share a pass changes no result beyond
    rounding. `banned_ids` are never generated; options may contain them.

    Raises:
        ConfigError: the model has layers of a kind that cannot share a prefix (causal_lm.windows).
        NumericError: a logit is NaN or infinite.
    """
    assert all(len(suffix.suffix_ids) and all(map(len, suffix.options)) for suffix in suffixes)
    if not suffixes:
        return []
    was_training = network.training
    network.eval()
    try:
        tree = _Tree(causal_lm.unwrap(network), prefix_ids)
        completions: list[Completion] = []
        for members in passes(suffixes, min(batch_tokens, PASS_TOKENS)):
            log_probs, hidden_BD = _score_options(tree, members)
            outputs = _complete(tree, members, hidden_BD, max_new_tokens, list(eos_ids), list(banned_ids))
            completions += map(Completion, outputs, log_probs)
            tree.crop(tree.num_tokens - len(prefix_ids))
    finally:
        network.train(was_training)
    return completions


def passes(suffixes: Sequence[Suffix], pass_tokens: int) -> Iterator[list[Suffix]]:
    """Split the suffixes, in order, into passes of at most `pass_tokens` tokens to read and at least one suffix."""
    members: list[Suffix] = []
    for suffix in suffixes:
        if members and sum(member.num_read for member in members) + suffix.num_read > pass_tokens:
            yield members
            members = []
        members.append(suffix)
    if members:
        yield members


class _Tree:
    """Tokens in a cache of one row, each of which attends to its ancestors only."""

    def __init__(self, decoder: Any, prefix_ids: Prompt) -> None:
        self.decoder = decoder
        self.device: torch.device = decoder.device
        self._backbone = decoder.base_model
        self._windows = causal_lm.windows(decoder.config)
        implementation = decoder.config._attn_implementation
        assert implementation in ("sdpa", "eager"), implementation
        # SDPA takes a mask of booleans; eager attention adds the mask, and would add True as 1.
        self._added_dtype = decoder.dtype if implementation == "eager" else None
        self.num_prefix = len(prefix_ids)
        # Without the config every layer keeps every token: a window that has passed the end of the prefix in one
        # suffix has not in the next.
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
        """Add tokens and return their hidden states (T, D); `nodes_3T`: position, suffix and option number of each."""
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
        """Remove the newest tokens."""
        self._cache.crop(-num_tokens)  # transformers 5 takes how many go, as a negative number
        self._nodes_3K = self._nodes_3K[:, : self.num_tokens - num_tokens]

    def _mask(self, nodes_3T: Tensor, window: int | None) -> Tensor:
        """Return which tokens of the tree (K) each new token (T) attends to, shape (1, 1, T, K)."""
        position_T1, suffix_T1, option_T1 = nodes_3T[:, :, None].unbind()
        position_K, suffix_K, option_K = self._nodes_3K.unbind()
        seen_TK = (suffix_K == _SHARED) | (suffix_K == suffix_T1)
        seen_TK &= (option_K == _SHARED) | (option_K == option_T1)
        seen_TK &= position_K <= position_T1
        if window is not None:
            seen_TK &= position_K > position_T1 - window
        if self._added_dtype is None:
            return seen_TK[None, None]
        return torch.where(seen_TK, 0.0, -torch.inf).to(self._added_dtype)[None, None]


def _score_options(tree: _Tree, members: Sequence[Suffix]) -> tuple[list[list[float]], Tensor]:
    """Read suffixes and options in one pass; the options leave the tree again.

    Returns:
        Log-probabilities by suffix and option, and the hidden states (B, D) of the suffixes' last tokens.
    """
    ids: list[int] = []
    nodes: list[tuple[int, int, int]] = []
    for index, suffix in enumerate(members):
        ids.extend(suffix.suffix_ids)  # += would let an array add itself to the list
        nodes += [(tree.num_prefix + place, index, _SHARED) for place in range(len(suffix.suffix_ids))]
    num_suffix = len(ids)
    ends = [end - 1 for end in accumulate(len(suffix.suffix_ids) for suffix in members)]
    # The suffix's last token predicts an option's first token; each option token predicts the next.
    rows: list[int] = []
    for index, suffix in enumerate(members):
        for number, option in enumerate(suffix.options):
            rows += [ends[index], *range(len(ids), len(ids) + len(option) - 1)]
            ids.extend(option[:-1])
            start = tree.num_prefix + len(suffix.suffix_ids)
            nodes += [(start + place, index, number) for place in range(len(option) - 1)]
    nodes_3T = torch.tensor(nodes, device=tree.device).T
    hidden_TD = tree.grow(torch.tensor(ids, dtype=torch.long, device=tree.device), nodes_3T)
    targets = [token for suffix in members for option in suffix.options for token in option]
    found = iter(_log_probs(tree.decoder, hidden_TD, nodes_3T[0] + 1, rows, targets))
    log_probs = [[sum(next(found) for _ in option) for option in suffix.options] for suffix in members]
    tree.crop(len(ids) - num_suffix)
    return log_probs, hidden_TD[ends]


def _log_probs(
    decoder: Any, hidden_TD: Tensor, length_T: Tensor, rows: Sequence[int], targets: Sequence[int]
) -> list[float]:
    """Return the log-probability of each target (N), predicted by the hidden state of its row.

    `length_T`: tokens up to each row, for the error message.
    """
    log_probs: list[float] = []
    for start in range(0, len(targets), LOGIT_ROWS):
        row_N = torch.tensor(rows[start : start + LOGIT_ROWS], device=hidden_TD.device)
        target_N = torch.tensor(targets[start : start + LOGIT_ROWS], dtype=torch.long, device=hidden_TD.device)
        logits_NV = causal_lm.logits(decoder, hidden_TD[row_N])
        generation.require_finite(logits_NV, length_T[row_N])
        logits_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        log_probs += (logits_NV.gather(1, target_N[:, None])[:, 0] - logits_NV.logsumexp(dim=1)).tolist()
    return log_probs


def _complete(
    tree: _Tree,
    members: Sequence[Suffix],
    hidden_BD: Tensor,
    max_new_tokens: int,
    eos_ids: list[int],
    banned_ids: list[int],
) -> list[list[int]]:
    """Generate each suffix's answer greedily; `hidden_BD` are the hidden states of the suffixes' last tokens."""
    outputs: list[list[int]] = [[] for _ in members]
    suffix_B = torch.arange(len(members), device=tree.device)
    stop_ids = torch.tensor(eos_ids, device=tree.device)
    num_positions = causal_lm.num_positions(tree.decoder.config)
    length_B = torch.tensor([tree.num_prefix + len(suffix.suffix_ids) for suffix in members], device=tree.device)
    for num_new in range(max_new_tokens):
        next_B = generation.most_likely(causal_lm.logits(tree.decoder, hidden_BD), banned_ids, length_B)
        going_B = ~torch.isin(next_B, stop_ids) & (length_B + num_new < num_positions)
        next_B, suffix_B, length_B = next_B[going_B], suffix_B[going_B], length_B[going_B]
        for index, token in zip(suffix_B.tolist(), next_B.tolist(), strict=True):
            outputs[index].append(token)
        if not len(next_B) or num_new + 1 == max_new_tokens:
            break
        nodes_3B = torch.stack([length_B + num_new, suffix_B, torch.full_like(suffix_B, _SHARED)])
        hidden_BD = tree.grow(next_B, nodes_3B)
    return outputs
