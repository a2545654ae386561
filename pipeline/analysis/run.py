"""Runs all probes on one method: on its network over the chosen pairs of views, and on its answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.analysis import answers, attention, representations
from pipeline.analysis.inputs import Longest, Pair
from pipeline.common import base_card, tables
from pipeline.evaluation import bootstrap, score
from pipeline.model import generation
from pipeline.runtime.settings import EvalSettings
from pipeline.views import tasks, tokenizer
from pipeline.views.full_view import Ids

Network = PreTrainedModel | PeftModel


def probe_network(
    network: Network,
    pairs: Sequence[Pair],
    full_answers: Sequence[tables.Row],
    longest: Longest,
    card: base_card.BaseCard,
    settings: EvalSettings,
) -> dict[str, Any]:
    """Run the probes that read the network: representations, answers to both views, attention.

    `full_answers` are the rows of predictions of the pairs' full views, in the same order.
    """
    looked = _attention(network, pairs, longest, card, settings)
    same = _agreement(network, pairs, full_answers, card, settings)
    compared = _representations(network, pairs, card, settings)
    intervals = {**compared["intervals"], **same["intervals"]}
    return {**compared, **same, "intervals": intervals, "attention": looked}


def probe_answers(rows: Mapping[str, tables.Row], longest: Longest, resamples: int) -> dict[str, Any]:
    """Run the probes of a method's predictions: kinds of `errors`, and the score by `position` of the gold document."""
    kinds = [
        answers.kind(row, score.document_texts(longest.context_of[example_id]).values())
        for example_id, row in rows.items()
    ]
    found = list(rows.values())
    question_ids = [row["question_id"] for row in found]
    positions, points = [row["gold_position"] for row in found], [row["score"] for row in found]
    return {
        "errors": answers.kind_shares(kinds, question_ids, resamples),
        "position": answers.by_position(positions, points, question_ids, longest.num_documents, resamples=resamples),
    }


def _attention(
    network: Network, pairs: Sequence[Pair], longest: Longest, card: base_card.BaseCard, settings: EvalSettings
) -> dict[str, Any] | None:
    """Compute attention.figures over the full views with a gold token; None: there are none."""
    known = [pair for pair in pairs if pair.has_gold_token()]
    if not known:
        return None
    prompts = [_prompt(pair.full) for pair in known]
    rows = attention.last_rows(network, prompts, pad_id=card.pad_id, batch_tokens=settings.batch_tokens)
    reaches = attention.reaches(network)
    divided = []
    for pair, row_NL in zip(known, rows, strict=True):
        context = longest.context_of[pair.full["example_id"]]
        roles = attention.roles([chunk.document_id for chunk in context], [chunk.title for chunk in context], pair.gold)
        divided.append(attention.divide(row_NL, pair.full["chunk_starts"], pair.full["chunk_ends"], roles, reaches))
    return attention.figures(
        divided,
        [pair.full["gold_position"] for pair in known],
        [pair.full["question_id"] for pair in known],
        longest.num_documents,
        reaches,
        settings.bootstrap_resamples,
    )


def _agreement(
    network: Network,
    pairs: Sequence[Pair],
    full_answers: Sequence[tables.Row],
    card: base_card.BaseCard,
    settings: EvalSettings,
) -> dict[str, Any]:
    """Generate answers to the masked views, and compare them with those to the full views (answers.compare)."""
    task, decode = tasks.of(full_answers[0]["benchmark"]), tokenizer.load().decode
    outputs = generation.generate(
        network,
        [_prompt(pair.masked) for pair in pairs],
        positions=[_positions(pair.masked) for pair in pairs],
        max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
        eos_ids=card.eos_ids,
        pad_id=card.pad_id,
        banned_ids=[card.mask_id, card.pad_id],
        batch_tokens=settings.batch_tokens,
    )
    masked_answers = [
        score.answer_text(decode(output), task, row["answers"])
        for output, row in zip(outputs, full_answers, strict=True)
    ]
    return answers.compare(masked_answers, full_answers, settings.bootstrap_resamples)


def _representations(
    network: Network, pairs: Sequence[Pair], card: base_card.BaseCard, settings: EvalSettings
) -> dict[str, Any]:
    """Compute representations.Alignment with `intervals`, and `matching` (None: no question of another context).

    The last prompt token is compared, whatever token training compared: there the answer is decided.
    """
    questions = [pair.full["input_ids"][pair.full["question_start"] : pair.full["prompt_end"]] for pair in pairs]
    others = representations.other_questions(questions, [tuple(pair.full["document_ids"]) for pair in pairs])
    num_others = min(map(len, others))
    z: list[torch.Tensor] = []  # of the full and of the masked views
    for view in ("full", "masked"):
        contexts = []
        for pair, own, chosen in zip(pairs, questions, others, strict=True):
            asked = [own, *(questions[other] for other in chosen[:num_others]), questions[0]] if num_others else [own]
            prompt, positions = _prompt(getattr(pair, view)), _positions(getattr(pair, view))
            end = len(prompt) - len(own)
            contexts.append(representations.ContextQuestions(prompt[:end], positions[:end], int(positions[end]), asked))
        z.append(representations.represent(network, contexts, pad_id=card.pad_id, batch_tokens=settings.batch_tokens))
    question_ids, resamples = [pair.full["question_id"] for pair in pairs], settings.bootstrap_resamples
    z_full, z_masked = z
    matched = representations.match(z_full, z_masked, question_ids, resamples) if num_others else None
    own_z = z_full[:, 0], z_masked[:, 0]
    interval = bootstrap.interval(representations.cosines(*own_z), question_ids, resamples=resamples)
    return {
        **representations.align(*own_z)._asdict(),
        "intervals": {"alignment": interval._asdict()},
        "matching": matched,
    }


def _prompt(view: tables.Row) -> list[int]:
    prompt: list[int] = view["input_ids"][: view["prompt_end"]]
    return prompt


def _positions(view: tables.Row) -> Ids:
    positions: Ids = view.get("position_ids", range(view["prompt_end"]))[: view["prompt_end"]]
    return positions
