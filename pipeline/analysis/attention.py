"""Probe of attention: how the last prompt token, where the answer is decided, attends to the chunks, layer by layer.

The weights are read beside a plain forward (model/attention_rows.py), so that a row needs memory of O(L) in each layer,
and RoPE, grouped queries, adapters and windows have their effect. Attention is divided by role:

    gold      the gold chunks
    namesake  chunks of a document without a gold chunk whose title shares a word with one that has: people of one
              first or last name, articles about things of one name
    other     every other chunk, also those of the gold document that are not gold
    rest      tokens outside of all chunks: BOS, instruction, question
"""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.analysis import answers
from pipeline.common.text import is_letter, terms
from pipeline.evaluation import bootstrap
from pipeline.model import causal_lm, collator, generation
from pipeline.model.attention_rows import AttentionRows

# B prompts of a batch, H heads, L tokens of a prompt, N layers, R roles, E examples

Role = Literal["gold", "namesake", "other", "rest"]
ROLES: tuple[Role, ...] = get_args(Role)
FUNCTION_WORDS = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))
"""Words of a title that name nothing."""


class Shares(NamedTuple):
    """Attention of one prompt's last token by role."""

    mass_NR: NDArray[np.float64]
    """Attention in each layer; a row sums to 1."""
    tokens_R: NDArray[np.float64]
    """Share of the prompt's tokens: the attention that a uniform distribution would give."""
    out_of_reach_N: NDArray[np.float64]
    """Share of the gold tokens outside the layer's window: the layer cannot attend to them."""


def reaches(network: PreTrainedModel | PeftModel) -> list[int | None]:
    """Count for each layer how many of the last tokens its last query can see, itself included; None: all of them.

    Raises:
        ConfigError: as `causal_lm.windows`.
    """
    config = causal_lm.unwrap(network).config
    windows = causal_lm.windows(config)
    kinds = getattr(config, "layer_types", None) or [next(iter(windows))] * config.num_hidden_layers
    return [windows[kind] for kind in kinds]


def last_rows(
    network: PreTrainedModel | PeftModel, prompts: Sequence[generation.Prompt], *, pad_id: int, batch_tokens: int
) -> list[NDArray[np.float32]]:
    """Compute for each prompt the attention of its last token to all its L tokens, mean over heads: shape (N, L).

    Each layer's row sums to 1. Attention outside a layer's window (see `reaches`) is exactly 0. Prompts are token ids,
    none empty; at most `batch_tokens` tokens with padding share a forward. The network is in evaluation mode.
    """
    rows: dict[int, NDArray[np.float32]] = {}
    for batch in collator.group_by_length([len(prompt) for prompt in prompts], batch_tokens):
        rows |= zip(batch, _batch(network, [prompts[index] for index in batch], pad_id), strict=True)
    return [rows[index] for index in range(len(prompts))]


@torch.inference_mode()
def _batch(
    network: PreTrainedModel | PeftModel, prompts: Sequence[generation.Prompt], pad_id: int
) -> list[NDArray[np.float32]]:
    ids = [np.asarray(prompt, dtype=np.int32) for prompt in prompts]
    places = [np.arange(len(prompt), dtype=np.int32) for prompt in prompts]
    inputs = collator.pad(ids, places, [len(prompt) for prompt in prompts], pad_id).to(network.device)
    last_B = inputs.end_E - 1
    found = AttentionRows(inputs, inputs.row_E, last_B, lambda weights_BHL, _: weights_BHL.float().mean(dim=1))
    causal_lm.hidden_states(network, inputs, last_B, found)
    rows_NBL = torch.stack([*found.reduced.values()]).cpu().numpy()
    return [rows_NBL[:, row, : len(prompt)] for row, prompt in enumerate(prompts)]


def roles(document_ids: Sequence[str], titles: Sequence[str], gold: Sequence[bool]) -> list[Role]:
    """Find the role of each chunk of a context, from its document, that document's title, and whether it is gold."""
    chunks = list(zip(document_ids, titles, gold, strict=True))
    with_gold = {document_id for document_id, _, is_gold in chunks if is_gold}
    names = {word for document_id, title, _ in chunks if document_id in with_gold for word in _words(title)}
    return [
        "gold" if is_gold else "namesake" if document_id not in with_gold and names & _words(title) else "other"
        for document_id, title, is_gold in chunks
    ]


def _words(title: str) -> set[str]:
    # One letter of Chinese names nothing; two in a row are a term of their own.
    return {term for term in terms(title) if not is_letter(term)} - FUNCTION_WORDS


def divide(
    row_NL: NDArray[np.float32],
    chunk_starts: Sequence[int],
    chunk_ends: Sequence[int],
    chunk_roles: Sequence[Role],
    reaches: Sequence[int | None],
) -> Shares:
    """Divide the attention of one prompt's last token (`last_rows`) by role; at least one token must be gold."""
    num_tokens = row_NL.shape[1]
    role_L = np.full(num_tokens, ROLES.index("rest"))
    for start, end, role in zip(chunk_starts, chunk_ends, chunk_roles, strict=True):
        role_L[start:end] = ROLES.index(role)
    mass_RN = [row_NL[:, role_L == place].sum(axis=1, dtype=np.float64) for place in range(len(ROLES))]
    counts_R = np.bincount(role_L, minlength=len(ROLES))
    gold_places = np.flatnonzero(role_L == ROLES.index("gold"))
    assert len(gold_places), "without a gold token there is nothing to attend to"
    firsts = [0 if reach is None else max(0, num_tokens - reach) for reach in reaches]
    return Shares(
        np.stack(mass_RN, axis=1), counts_R / num_tokens, np.array([(gold_places < first).mean() for first in firsts])
    )


def figures(
    found: Sequence[Shares],
    gold_positions: Sequence[int],
    question_ids: Sequence[str],
    num_documents: int,
    reaches: Sequence[int | None],
    resamples: int,
) -> dict[str, Any]:
    """Average over the examples by layer, and over the layers by gold position, with 95 % intervals over questions.

    `token_shares` are the mean shares of a prompt's tokens by role: the level to compare attention with.
    Where a window cuts gold tokens off, an example does not count in that layer: the zeros there are no lack of
    attention. `gold_out_of_reach` is the share of gold tokens cut off, `num_examples` the number of examples that
    count; shares of none are None.
    """
    mass_ENR = np.stack([shares.mass_NR for shares in found])
    out_EN = np.stack([shares.out_of_reach_N for shares in found])
    counted_EN = out_EN == 0.0

    def interval(values_E: NDArray[np.float64], of_E: NDArray[np.bool_]) -> dict[str, float] | None:
        names = [name for name, counts in zip(question_ids, of_E, strict=True) if counts]
        if not names:
            return None
        return bootstrap.interval(values_E[of_E], names, resamples=resamples)._asdict()

    def by_role(mass_ER: NDArray[np.float64], of_E: NDArray[np.bool_]) -> dict[str, Any]:
        return {role: interval(mass_ER[:, place], of_E) for place, role in enumerate(ROLES)}

    # Over the layers that see all of the example's gold tokens.
    mean_ER = (mass_ENR * counted_EN[:, :, None]).sum(axis=1) / np.maximum(counted_EN.sum(axis=1), 1)[:, None]
    any_E = counted_EN.any(axis=1)
    layers = [
        {
            "layer": layer + 1,
            "window": reach,
            "num_examples": int(counted_EN[:, layer].sum()),
            "gold_out_of_reach": float(out_EN[:, layer].mean()),
            **by_role(mass_ENR[:, layer], counted_EN[:, layer]),
        }
        for layer, reach in enumerate(reaches)
    ]
    tokens_R = np.stack([shares.tokens_R for shares in found]).mean(axis=0)
    kept = np.flatnonzero(any_E).tolist()
    positions, names = [gold_positions[place] for place in kept], [question_ids[place] for place in kept]
    return {
        "num_examples": len(found),
        "layers": layers,
        "all_layers": by_role(mean_ER, any_E),
        "token_shares": dict(zip(ROLES, tokens_R.tolist(), strict=True)),
        "by_gold_position": {
            role: answers.by_position(
                positions, mean_ER[kept, ROLES.index(role)].tolist(), names, num_documents, resamples=resamples
            )
            for role in ("gold", "namesake")
        },
    }
