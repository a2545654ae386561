"""Probes of representations: how close the two views of an example are, and by what they are matched.

Alignment and uniformity after Wang and Isola, "Understanding contrastive representation learning through alignment and
uniformity on the hypersphere" (arXiv 2005.10242), alignment given as a cosine.

Matching asks each context, in both views, its own question, some other examples' questions, and one question that is
the same for all examples. The representations of the last prompt token are matched in four ways:

    own           each example's own question; candidates are the masked views of all examples
    shuffled      both views with one question of another example. The kept chunks no longer answer it, so a match is
                  not due to the answer: matching as well as with the own question is a shortcut.
    one_question  all with the same question: only the context tells them apart. Above chance, the context is matched.
    same_context  the own masked view with its own question and with other examples': only the question tells them
                  apart. At chance, the question is not read.

No candidate is the same context masked for another question: that would need scores of its chunks for questions
that are not asked over it.
"""

import copy
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache

from pipeline.evaluation import bootstrap
from pipeline.model import generation
from pipeline.model.causal_lm import unwrap
from pipeline.views.full_view import Ids

# N examples, D hidden, Q questions asked over each context, T tokens of the longest of them, C candidates

NUM_OTHERS = 3  # other examples' questions that are asked over each context
_EQUAL = 1e-6  # cosines nearer than this differ by rounding


class Alignment(NamedTuple):
    """Comparison of the two views of N examples."""

    alignment: float
    """Mean cosine of the two views of one example."""
    alignment_others: float
    """Mean cosine of a full view and the masked view of another example."""
    in_batch_accuracy: float
    """Share of full views whose nearest masked view, of all N, is their own."""
    uniformity: float
    """log mean exp(-2 |z - z'|^2) over pairs of full views; lower is more spread out, 0 is all in one point."""
    uniformity_masked: float
    """The same over pairs of masked views."""


def align(z_full_ND: Tensor, z_masked_ND: Tensor) -> Alignment:
    """Compare N >= 2 pairs of representations, not yet normalised; computed in fp32."""
    full_ND = functional.normalize(z_full_ND.float(), dim=-1)
    masked_ND = functional.normalize(z_masked_ND.float(), dim=-1)
    cosine_NN = full_ND @ masked_ND.T
    num = len(cosine_NN)
    own = cosine_NN.diagonal()
    others = (cosine_NN.sum() - own.sum()) / (num * (num - 1))
    own_N = torch.arange(num, device=cosine_NN.device)
    return Alignment(
        alignment=float(own.mean()),
        alignment_others=float(others),
        in_batch_accuracy=float((cosine_NN.argmax(dim=1) == own_N).float().mean()),
        uniformity=_uniformity(full_ND),
        uniformity_masked=_uniformity(masked_ND),
    )


def cosines(z_full_ND: Tensor, z_masked_ND: Tensor) -> list[float]:
    """Compute the cosine of the two views of each example; `Alignment.alignment` is their mean."""
    found: list[float] = functional.cosine_similarity(z_full_ND.float(), z_masked_ND.float(), dim=-1).tolist()
    return found


def _uniformity(z_ND: Tensor) -> float:
    return float(torch.pdist(z_ND).square().mul(-2).exp().mean().log())


def other_questions(questions: Sequence[Ids], contexts: Sequence[Hashable], num: int = NUM_OTHERS) -> list[list[int]]:
    """Choose for each example `num` others, the next ones with other questions about other contexts, or fewer."""
    keys = [tuple(question) for question in questions]
    num = min(num, len(set(keys)) - 1)
    chosen: list[list[int]] = []
    for place, key in enumerate(keys):
        found: dict[tuple[int, ...], int] = {}
        for other in (*range(place + 1, len(keys)), *range(place)):
            if len(found) == num:
                break
            if keys[other] != key and contexts[other] != contexts[place]:
                found.setdefault(keys[other], other)
        chosen.append(list(found.values()))
    return chosen


class ContextQuestions(NamedTuple):
    """One context, and the questions asked over it in place of its own."""

    context_ids: Ids
    """BOS, instruction and chunks."""
    context_places: Ids
    """Their positions, ascending, gaps allowed."""
    first_place: int
    """Position of a question's first token."""
    questions: Sequence[Ids]


@torch.inference_mode()
def represent(network: Any, contexts: Sequence[ContextQuestions], *, pad_id: int, batch_tokens: int) -> Tensor:
    """Compute the last prompt token's representation for each context and question: (N, Q, D), fp32, on the CPU.

    All contexts have the same number of questions. A context is read once. Questions continue from copies of its cache,
    as many at once as `batch_tokens` allows with the context counted for each, at least one. The network is in
    evaluation mode.
    """
    return torch.stack([_represent(unwrap(network), of, pad_id, batch_tokens) for of in contexts])


def _represent(causal_lm: Any, of: ContextQuestions, pad_id: int, batch_tokens: int) -> Tensor:
    num_shared, longest = len(of.context_ids), max(map(len, of.questions))
    cache = DynamicCache(config=causal_lm.config)
    context = _tensor([of.context_ids], causal_lm.device)
    places: dict[str, Tensor] = {}
    # Without mask and positions transformers takes causal attention over 0, 1, 2, ..., its fastest path.
    if not generation.runs_on(of.context_places):
        positions = _tensor([of.context_places], causal_lm.device)
        places = {"attention_mask": torch.ones_like(context), "position_ids": positions}
    causal_lm.base_model(input_ids=context, past_key_values=cache, use_cache=True, **places)
    at_once = max(1, batch_tokens // (num_shared + longest))
    found: list[Tensor] = []
    for start in range(0, len(of.questions), at_once):
        questions = of.questions[start : start + at_once]
        last = start + at_once >= len(of.questions)
        copied = cache if last else copy.deepcopy(cache)  # reading behind a cache writes into it
        copied.batch_repeat_interleave(len(questions))
        question_places = range(of.first_place, of.first_place + longest)
        seen = [[1] * (num_shared + len(own)) + [0] * (longest - len(own)) for own in questions]
        hidden_QTD = causal_lm.base_model(
            input_ids=_tensor([[*own, *[pad_id] * (longest - len(own))] for own in questions], causal_lm.device),
            attention_mask=_tensor(seen, causal_lm.device),
            position_ids=_tensor([question_places] * len(questions), causal_lm.device),
            past_key_values=copied,
            use_cache=True,
        ).last_hidden_state
        found += [hidden_QTD[row, len(own) - 1] for row, own in enumerate(questions)]
    return torch.stack(found).float().cpu()


def _tensor(rows: Sequence[Ids], device: torch.device) -> Tensor:
    return torch.tensor([list(row) for row in rows], device=device)


def match(
    z_full_NQD: Tensor, z_masked_NQD: Tensor, question_ids: Sequence[str], resamples: int
) -> dict[str, dict[str, float]]:
    """Compute for each way of matching the share of examples matched, its 95 % interval over questions, and its chance.

    Axis Q holds the example's own question, then at least one question of another example, then the question shared by
    all.
    """
    full, masked = (functional.normalize(z.float(), dim=-1) for z in (z_full_NQD, z_masked_NQD))
    own_N = torch.arange(len(full))
    ways = {
        name: (full[:, place] @ masked[:, place].T, own_N)
        for name, place in (("own", 0), ("shuffled", 1), ("one_question", -1))
    }
    ways["same_context"] = torch.einsum("nd,ncd->nc", full[:, 0], masked[:, :-1]), torch.zeros_like(own_N)
    return {
        name: {
            **bootstrap.interval(hits(cosine_NC, right_N), question_ids, resamples=resamples)._asdict(),
            "chance": 1 / cosine_NC.shape[1],
            "num_candidates": cosine_NC.shape[1],
        }
        for name, (cosine_NC, right_N) in ways.items()
    }


def hits(cosine_NC: Tensor, own_N: Tensor) -> NDArray[np.float64]:
    """Compute for each row 1 where its own candidate is nearest, 1/k where k are equally near, else 0."""
    own_N1 = cosine_NC.gather(1, own_N[:, None])
    nearer_N = (cosine_NC > own_N1 + _EQUAL).any(dim=1)
    num_equal_N = ((cosine_NC - own_N1).abs() <= _EQUAL).sum(dim=1)
    found: NDArray[np.float64] = torch.where(nearer_N, 0.0, 1.0 / num_equal_N).double().numpy()
    return found
