"""How the last token's attention is divided: among the gold chunks, their namesakes, the other chunks and the rest.

gold      the gold chunks
namesake  chunks of a document that has no gold chunk, but a title with a word in common with one that has: people
          of one first or last name, articles on things of one name
other     every other chunk, also those of the gold document that are not gold
rest      what stands in no chunk: BOS, instruction, question
"""

# N layers, L tokens of the prompt, C chunks, R roles

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis import position_bias
from pipeline.common import answers
from pipeline.evaluation import bootstrap

Role = Literal["gold", "namesake", "other", "rest"]
ROLES: tuple[Role, ...] = ("gold", "namesake", "other", "rest")
FUNCTION_WORDS = frozenset(("a", "an", "and", "at", "by", "for", "from", "in", "of", "on", "or", "the", "to", "with"))
"""Words of a title that name nothing."""

Floats = NDArray[np.float64]


class Shares(NamedTuple):
    """Of one prompt."""

    mass_NR: Floats
    """Each layer's attention by role; a row sums to 1."""
    tokens_R: Floats
    """Share of the prompt's tokens by role: what attention that looks everywhere alike would give."""
    out_of_reach_N: Floats
    """Share of the gold tokens that stand outside the layer's window: no attention can go there, whatever it learnt."""


def roles(document_ids: Sequence[str], titles: Sequence[str], gold: Sequence[bool]) -> list[Role]:
    """Of the chunks of one context: each with its document, that document's title, and whether it is gold."""
    chunks = list(zip(document_ids, titles, gold, strict=True))
    with_gold = {document_id for document_id, _, is_gold in chunks if is_gold}
    names = {word for document_id, title, _ in chunks if document_id in with_gold for word in _words(title)}
    return [
        "gold" if is_gold else "namesake" if document_id not in with_gold and names & _words(title) else "other"
        for document_id, title, is_gold in chunks
    ]


def _words(title: str) -> set[str]:
    tokens = answers.tokens(title).split()
    return {token for token in tokens if any(map(str.isalnum, token))} - FUNCTION_WORDS


def divide(
    row_NL: NDArray[np.float32],
    chunk_starts: Sequence[int],
    chunk_ends: Sequence[int],
    chunk_roles: Sequence[Role],
    reaches: Sequence[int | None],
) -> Shares:
    """The attention of one prompt's last token (attention.last_rows) by role; at least one gold token is needed."""
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
    """Means over the examples with 95 % intervals over questions, by layer, and for the layers' mean by gold position.

    Where a window cuts gold tokens off, an example does not count in that layer: the zeros there are no lack of
    attention. `gold_out_of_reach` says how much that is, `num_examples` how many are left; shares of none are None.
    """
    mass_ENR = np.stack([shares.mass_NR for shares in found])
    out_EN = np.stack([shares.out_of_reach_N for shares in found])
    counted_EN = out_EN == 0.0

    def interval(values_E: Floats, of_E: NDArray[np.bool_]) -> dict[str, float] | None:
        names = [name for name, counts in zip(question_ids, of_E, strict=True) if counts]
        if not names:
            return None
        return bootstrap.interval(values_E[of_E], names, resamples=resamples, seed=0)._asdict()

    def by_role(mass_ER: Floats, of_E: NDArray[np.bool_]) -> dict[str, Any]:
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
    kept = np.flatnonzero(any_E).tolist()
    positions, names = [gold_positions[place] for place in kept], [question_ids[place] for place in kept]
    return {
        "num_examples": len(found),
        "layers": layers,
        "all_layers": by_role(mean_ER, any_E),
        "by_gold_position": {
            role: position_bias.along(
                positions, mean_ER[kept, ROLES.index(role)].tolist(), names, num_documents, resamples=resamples
            )
            for role in ("gold", "namesake")
        },
    }


def of_tokens(found: Sequence[Shares]) -> dict[str, float]:
    """Mean share of the prompt's tokens by role: the level to hold attention against."""
    mean_R = np.stack([shares.tokens_R for shares in found]).mean(axis=0)
    return {role: float(share) for role, share in zip(ROLES, mean_R, strict=True)}
