"""What analyze finds out about one method: from its network on the chosen pairs, and from its answers."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from pipeline.analysis import attention, representations
from pipeline.analysis.answers import compare, kind, of_scores, shares
from pipeline.analysis.inputs import Longest, Pair
from pipeline.common import tables
from pipeline.evaluation import bootstrap, score
from pipeline.model import generation, loading
from pipeline.runtime.settings import EvalSettings
from pipeline.views import tasks
from pipeline.views.tokenizer import load

Network = PreTrainedModel | PeftModel


def placed(pairs: Sequence[Pair]) -> list[Pair]:
    """Those with a gold token in their full view: attention to gold can be told."""
    return [
        pair
        for pair in pairs
        if any(
            gold and start < end
            for start, end, gold in zip(pair.full["chunk_starts"], pair.full["chunk_ends"], pair.gold, strict=True)
        )
    ]


def attention_of(
    network: Network, pairs: Sequence[Pair], longest: Longest, card: loading.BaseCard, settings: EvalSettings
) -> dict[str, Any] | None:
    """attention_shares.figures of the last prompt token of the full views, with the prompts' `token_shares`; None: no
    gold chunk is known."""
    if not (known := placed(pairs)):
        return None
    prompts = [_prompt(pair.full) for pair in known]
    rows = attention.last_rows(network, prompts, pad_id=card.pad_id, batch_tokens=settings.batch_tokens)
    reaches = attention.reaches(network)
    divided = []
    for pair, row_NL in zip(known, rows, strict=True):
        context = longest.context(pair.full["example_id"])
        documents, titles = [chunk.document_id for chunk in context], [chunk.title for chunk in context]
        roles = attention.roles(documents, titles, pair.gold)
        starts, ends = pair.full["chunk_starts"], pair.full["chunk_ends"]
        divided.append(attention.divide(row_NL, starts, ends, roles, reaches))
    found = attention.figures(
        divided,
        [pair.full["gold_position"] for pair in known],
        [pair.full["question_id"] for pair in known],
        longest.num_documents,
        reaches,
        settings.bootstrap_resamples,
    )
    return {**found, "token_shares": attention.of_tokens(divided)}


def equivalence_of(
    network: Network, pairs: Sequence[Pair], full: Sequence[tables.Row], card: loading.BaseCard, settings: EvalSettings
) -> dict[str, Any]:
    """equivalence.compare of the method's answers to the masked views with `full`, those to the full ones."""
    task, tokenizer = tasks.of(full[0]["benchmark"]), load().tokenizer
    outputs = generation.generate(
        network,
        [_prompt(pair.masked) for pair in pairs],
        positions=[pair.masked["position_ids"][: pair.masked["prompt_end"]] for pair in pairs],
        max_new_tokens=settings.max_new_tokens or task.max_new_tokens,
        eos_id=card.eos_id,
        pad_id=card.pad_id,
        banned_ids=[card.mask_id, card.pad_id],
        batch_tokens=settings.batch_tokens,
    )
    answers = [score.answer_text(tokenizer.decode(output), task) for output in outputs]
    return compare(answers, full, settings.bootstrap_resamples)


def representations_of(
    network: Network, pairs: Sequence[Pair], card: loading.BaseCard, settings: EvalSettings
) -> dict[str, Any]:
    """alignment.Alignment with `intervals`, and `matching` (matching.figures; None: no question of another context).

    Of the last prompt token, whatever training compared: it is where the answer is decided.
    """
    questions = [pair.full["input_ids"][pair.full["question_start"] : pair.full["prompt_end"]] for pair in pairs]
    others = representations.other_questions(questions, [tuple(pair.full["document_ids"]) for pair in pairs])
    num_others = min(map(len, others))
    others = [found[:num_others] for found in others]
    z: list[torch.Tensor] = []
    for view in ("full", "masked"):
        contexts: list[representations.Asked] = []
        for pair, own, behind in zip(pairs, questions, others, strict=True):
            asked = [own, *(questions[other] for other in behind), questions[0]] if behind else [own]
            prompt, places = _prompt(getattr(pair, view)), _places(getattr(pair, view))
            contexts.append(representations.asked(prompt, places, len(prompt) - len(own), asked))
        z.append(representations.represent(network, contexts, pad_id=card.pad_id, batch_tokens=settings.batch_tokens))
    names, resamples = [pair.full["question_id"] for pair in pairs], settings.bootstrap_resamples
    matched = representations.figures(representations.match(*z), names, resamples) if num_others else None
    own = bootstrap.interval(representations.cosines(z[0][:, 0], z[1][:, 0]), names, resamples=resamples, seed=0)
    return {
        **representations.align(z[0][:, 0], z[1][:, 0])._asdict(),
        "intervals": {"alignment": own._asdict()},
        "matching": matched,
    }


def answers_of(rows: Mapping[str, tables.Row], longest: Longest, resamples: int) -> dict[str, Any]:
    """From the method's answers alone: kinds of `errors`, and the score by `position` of the gold document."""
    kinds = [kind(row, longest.texts(example_id)) for example_id, row in rows.items()]
    names = [row["question_id"] for row in rows.values()]
    return {
        "errors": shares(kinds, names, resamples),
        "position": of_scores(list(rows.values()), resamples),
    }


def _prompt(view: tables.Row) -> list[int]:
    prompt: list[int] = view["input_ids"][: view["prompt_end"]]
    return prompt


def _places(view: tables.Row) -> Sequence[int]:
    places: Sequence[int] = view.get("position_ids", range(view["prompt_end"]))[: view["prompt_end"]]
    return places
