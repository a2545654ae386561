"""Made-up results of the earlier stages: small, seeded, and with every file that the report reads."""

import math
import random
from pathlib import Path
from typing import Any

from pipeline.analysis.answers import KINDS
from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.runtime import curves

FIRST = ("Ada", "Bruno", "Clara", "Dmitri", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas", "Kaia", "Liam")
LAST = ("Abbott", "Berger", "Castell", "Dvorak", "Eriksen", "Fontaine", "Garcia", "Holm", "Ivanova", "Jensen")
CITIES = ("Porto", "Vienna", "Lyon", "Gdansk", "Turin", "Bergen", "Ghent", "Malmo", "Zadar", "Cork", "Basel", "Riga")
TRADES = ("surveyor", "cellist", "botanist", "printer", "architect", "glazier", "chemist", "translator")
COPIED = (
    "example_id", "question_id", "benchmark", "gold_position", "answers", "answer_types", "subset", "options",
    "gold_option",
)  # fmt: skip
SKILL = {"base": 0.2, "vanilla": 1.3, "focused": 1.75}


def write(
    root: Path,
    *,
    num_questions: int = 60,
    lengths: tuple[int, ...] = (4, 8, 12),
    skill: dict[str, float] = SKILL,
    hostile: str = "",
    seed: int = 0,
) -> None:
    """Write a whole run below `root`; `hostile` is text put into every place that holds data."""
    draw = random.Random(seed)
    people = [(first, last) for first in FIRST for last in LAST]
    facts = [(draw.choice(CITIES), draw.choice(TRADES)) for _ in people]
    documents = [
        {
            "document_id": f"p{index}",
            "title": f"{first} {last}{hostile}",
            "text": f"{first} {last} was born in {city} in {1880 + index}. After school {first} worked as a {trade} "
            f"and travelled widely.{hostile} Letters of these years are kept by the city library.",
            "whole": False,
        }
        for index, ((first, last), (city, trade)) in enumerate(zip(people, facts, strict=True))
    ]
    examples, answers = [], []
    for question in range(num_questions):
        gold = draw.randrange(len(people))
        for length in lengths:
            others = draw.sample([index for index in range(len(people)) if index != gold], length - 1)
            position = question % length
            context = [*others[:position], gold, *others[position:]]
            city = facts[gold][0]
            start = documents[gold]["text"].index(city)
            examples.append(
                {
                    "example_id": f"test-{question}-{length}",
                    "question_id": f"test-{question}",
                    "benchmark": f"bios{hostile}",
                    "split": "test",
                    "question": f"Where was {' '.join(people[gold])} born?{hostile}",
                    "answer_lead": f"{people[gold][0]} was born in",
                    "answers": [city],
                    "document_ids": [f"p{index}" for index in context],
                    "gold_document_ids": [f"p{gold}"],
                    "evidence": [{"document_id": f"p{gold}", "start": start, "end": start + len(city)}],
                    "gold_position": position,
                    "answer_types": [],
                    "options": [],
                    "gold_option": -1,
                    "subset": "",
                }
            )
            answers.append((context, gold))
    tables.write(tables.DOCUMENTS.at(root / "data/documents.parquet"), documents)
    tables.write(tables.EXAMPLES.at(root / "data/examples.parquet"), examples)
    tables.write(tables.MASKED_VIEWS.at(root / "data/views/masked.parquet"), map(_masked, examples))
    for method in skill:
        rows = [
            _prediction(draw, example, context, gold, facts, method, given, skill[method], hostile)
            for given in ("full", "retrieval")
            for example, (context, gold) in zip(examples, answers, strict=True)
        ]
        tables.write(schema.PREDICTIONS.at(root / f"reports/predictions/{method}.parquet"), rows)
        cells = [
            _cell(method, given, length, rate, skill[method])
            for given in ("full", "retrieval")
            for length in lengths
            for rate in (0.0, 0.5)
        ]
        files.write_json(root / f"reports/surface/{method}.json", {"rows": cells})
    _write_sources(root, lengths, num_questions, hostile)
    _write_ablations(root, lengths[-1], num_questions, hostile)
    _write_map(root, lengths, hostile)
    for method in ("vanilla", "focused"):
        _write_curves(root / "reports/train" / method, method, draw)


def _masked(example: dict[str, Any]) -> dict[str, Any]:
    """Keep the gold document and its neighbour."""
    place = example["gold_position"]
    kept = example["document_ids"][place : place + 2]
    return {
        "example_id": example["example_id"], "input_ids": [0, 1], "position_ids": [0, 1], "prompt_end": 1,
        "kept_chunk_ids": [f"{name}#0" for name in kept], "kept_scores": [0.5] * len(kept),
        "kept_ranks": list(range(len(kept))), "gold_retained": True, "answer_retained": True,
    }  # fmt: skip


def _prediction(
    draw: random.Random,
    example: dict[str, Any],
    context: list[int],
    gold: int,
    facts: list[tuple[str, str]],
    method: str,
    given: str,
    skill: float,
    hostile: str,
) -> dict[str, Any]:
    ease = 3.2 + skill - 0.33 * len(context) if given == "full" else 0.9 + 0.6 * skill
    right = draw.random() < 1 / (1 + math.exp(-ease))
    wrongs = [index for index in context if facts[index][0] != facts[gold][0]]
    wrong = draw.choice(wrongs) if wrongs else None
    distracted = not right and wrong is not None and draw.random() < 0.75
    text = facts[gold][0] if right else facts[wrong][0] if distracted else f"Atlantis{hostile}"
    return {
        **{name: example[name] for name in COPIED},
        "generated_option": -1,
        "likeliest_option": -1,
        "option_log_probs": [],
        "score": float(right),
        "method": method,
        "input": given,
        "num_documents": len(context),
        "prompt_tokens": 60 + 45 * (len(context) if given == "full" else 4),
        "prediction": text,
        "exact_match": float(right),
        "token_f1": float(right),
        "best_subspan_em": float(right),
        "error": "correct" if right else "distraction" if distracted else "other",
        "distractor_id": f"p{wrong}" if distracted else "",
    }


def _cell(method: str, given: str, length: int, rate: float, skill: float) -> dict[str, Any]:
    """Make a cell of the surface: harder with more documents and with more shared names."""
    score = 1 / (1 + math.exp(0.2 * length + rate - skill - 1))

    def around(mean: float) -> dict[str, float]:
        return {"mean": mean, "low": max(0.0, mean - 0.05), "high": min(1.0, mean + 0.05)}

    return {
        "method": method, "input": given, "num_documents": length, "name_sharing_rate": rate, "num_examples": 60,
        "score": around(score), "distraction_rate": around(0.7 * (1 - score)),
    }  # fmt: skip


def _write_sources(root: Path, lengths: tuple[int, ...], num_questions: int, hostile: str) -> None:
    def shares(length: int) -> dict[str, Any]:
        recall = {str(k): min(1.0, 0.83 + 0.03 * k) for k in (1, 3, 5, 10)}
        retention = {str(k): min(1.0, 0.86 + 0.03 * k) for k in (1, 3, 5, 10)}
        return {
            "num_examples": num_questions, "num_gold_known": num_questions, "mean_chunks": float(length),
            "recall": recall, "mrr": 0.91, "answer_retention": retention,
        }  # fmt: skip

    split = {"all": shares(8), "by_num_documents": {str(length): shares(length) for length in lengths}}
    files.write_json(
        root / "reports/retrieval.json",
        {
            "retriever": {"kind": "encoder", "source": f"package:minilm{hostile}", "revision": None, "title": True},
            "num_examples": num_questions * len(lengths),
            "splits": {"dev": split, "test": split},
            "collection": {"num_questions": num_questions, "num_chunks": 120, "recall": {"1": 0.8, "5": 0.97}},
        },
    )
    rows = [
        {
            **shares(8), "retriever": f"{name}{hostile}", "chunk_words": words, "split": "test",
            "all_gold": {"5": 0.5}, "collection": None, "truncated_chunks": None,
            "recall_interval": {str(k): [0.8, 1.0] for k in (1, 3, 5, 10)},
        }
        for words in (100, 200)
        for name in ("minilm", "random")
    ]  # fmt: skip
    files.write_json(
        root / "reports/validation.json",
        {"num_examples": num_questions, "num_documents": 120, "measured_as": {"100": 100, "200": 200}, "rows": rows},
    )
    kept = {
        "num_examples": num_questions, "gold_retained": 0.95, "answer_retained": 0.97, "kept_chunk_share": 1 / 3,
        "kept_token_share": 0.34, "mean_tokens_full": 620.0, "mean_tokens_masked": 620.0,
    }  # fmt: skip
    files.write_json(root / "reports/mask.json", {"mode": "token", "top_k": 4, "splits": {"train": kept, "test": kept}})
    lengths_of = {"num_examples": num_questions, "mean_tokens": 620.0, "max_tokens": 901, "cut": 0.25, "gold_cut": None}
    files.write_json(
        root / "reports/tokenize.json",
        {"max_tokens": 4096, "too_long": "cut_middle", "splits": {"train": lengths_of, "test": lengths_of}},
    )
    files.write_json(
        root / "reports/analysis.json",
        {
            "num_examples": 50,
            "num_documents": lengths[-1],
            "methods": dict.fromkeys(SKILL, VIEWS | inside(lengths[-1])),
            "answers": {name: answered(share, lengths[-1]) for share, name in enumerate(SKILL)},
        },
    )
    files.write_json(
        root / "reports/prepare.json", {"benchmark": "bios", "documents": {"num": 120, "words": {"mean": 31.5}}}
    )
    files.write_json(
        root / "models/base/base.json", {"source": f"models/tiny-base{hostile}", "revision": None, "sha256": "ab" * 32}
    )


VIEWS = {
    "alignment": 0.83, "alignment_others": 0.31, "in_batch_accuracy": 0.96, "uniformity": -2.1,
    "answers_equal": 0.71, "masked_score": 0.66, "full_score": 0.6,
}  # fmt: skip
"""How similar a method's two views are."""


def interval(mean: float) -> dict[str, float]:
    return {"mean": mean, "low": mean - 0.05, "high": mean + 0.05}


def along(num_documents: int, slope: float) -> dict[str, Any]:
    """Make what analyze measures along the positions of the gold document."""
    parts = [
        {"first_position": first, "last_position": first + 1, "num_examples": 9, **interval(0.4 + slope * first / 12)}
        for first in range(0, num_documents, 2)
    ]
    return {
        "num_documents": num_documents, "num_examples": 50, "parts": parts, "slope": interval(slope),
        "edge_slope": None,
    }  # fmt: skip


def inside(num_documents: int, out_of_reach: float = 0.0) -> dict[str, Any]:
    """Make what analyze measures inside a network; `out_of_reach` is the hidden share of gold in its second layer."""
    shares = {"gold": 0.2, "namesake": 0.15, "other": 0.4, "rest": 0.25}
    layers = [
        {
            "layer": layer, "window": window, "num_examples": 50, "gold_out_of_reach": hidden,
            **{role: None if hidden == 1.0 else interval(share) for role, share in shares.items()},
        }
        for layer, window, hidden in ((1, None, 0.0), (2, 256, out_of_reach), (3, None, 0.0))
    ]  # fmt: skip
    by_place = {role: along(num_documents, -0.25) for role in ("gold", "namesake")}
    return {
        "attention": {
            "num_examples": 50, "layers": layers, "token_shares": shares, "by_gold_position": by_place,
            "all_layers": {role: interval(share) for role, share in shares.items()},
        },
        "matching": {
            name: {**interval(0.5), "chance": 0.02, "num_candidates": 50}
            for name in ("own", "shuffled", "one_question", "same_context")
        },
        "outcomes": {
            name: interval(0.25) for name in ("both_right", "only_full_right", "only_masked_right", "both_wrong")
        },
    }  # fmt: skip


def answered(number: int, num_documents: int) -> dict[str, Any]:
    """Make what analyze measures on a method's answers alone."""
    shares = {"correct": 0.5, "distraction": 0.25, "in_gold": 0.15, "hallucinated": 0.1}
    errors = {kind: interval(shares.get(kind, 0.0)) for kind in KINDS}
    return {"errors": {"num_examples": 60, **errors}, "position": along(num_documents, 0.1 * number)}


def _write_ablations(root: Path, length: int, num_questions: int, hostile: str) -> None:
    around, change = {"mean": 0.6, "low": 0.5, "high": 0.7}, {"difference": -0.02, "low": -0.05, "high": 0.01}
    rows = [
        {
            "name": label, "label": f"{label}{hostile}", "group": f"{group}{hostile}", "method": method,
            "input": "full", "overrides": {}, "seeds": [1, 2, 3], "per_seed": [], "pooled": around,
            "distraction_rate": around, "slope": around,
            "to_reference": difference and {
                "difference": difference, "low": difference - 0.03, "high": difference + 0.03, "p_value": 0.002,
                "p_corrected": 0.004, "num_seeds": 3, "num_questions": num_questions,
                "distraction_rate": change, "slope": change,
            },
        }
        for group, label, method, difference in (
            ("main", "vanilla", "vanilla", None), ("main", "focused", "focused", 0.08),
            ("mask", "skip", "focused", 0.1),
        )
    ]  # fmt: skip
    table = {
        "benchmark": f"bios{hostile}", "num_documents": length, "num_questions": num_questions,
        "measure": "exact_match", "correction": "holm", "num_comparisons": 2, "reference": "vanilla",
        "claimed": ["focused"],
        "seconds": 60.0, "rows": rows,
    }  # fmt: skip
    files.write_json(root / "reports/ablations.json", table)
    files.write_json(root / "reports/laptop.json", table | {"shorter": [table | {"num_documents": 1}]})


def _write_curves(folder: Path, method: str, draw: random.Random) -> None:
    for curve in curves.CURVES:
        name = curve.name
        if method not in curve.methods or not curve.always:
            continue
        rising = name in ("in_batch_accuracy", "alignment")
        lines = [f"step\t{name}"]
        for step in range(5, 125, 5):
            decay = math.exp(-step / (30 if method == "focused" else 36))
            value = 0.95 - 0.6 * decay if rising else 0.35 + 2.1 * decay
            if name == "alignment_others":
                value = 0.2 + 0.1 * decay
            lines.append(f"{step}\t{value + 0.03 * draw.random()}")
        path = folder / "plots/metrics/train" / f"{name}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(lines) + "\n")
    (folder / "metrics.json").write_text('{"step": 120}\n')
    files.write_json(folder / "versions.json", {"python": "3.11.2", "torch": "2.13.0"})


def _write_map(root: Path, lengths: tuple[int, ...], hostile: str) -> None:
    cells = [
        {
            "row": f"focused-{labelled}{hostile}", "labelled_questions": labelled, "num_documents": length,
            "name_sharing_rate": rate, "focused": 0.6, "vanilla": 0.6 - difference, "difference": difference,
            "low": difference - 0.04, "high": difference + 0.04, "p_value": 0.001, "p_corrected": 0.02,
            "num_seeds": 5, "num_questions": 128,
        }
        for labelled, difference in ((50, 0.08), (1000, -0.06))
        for length in lengths
        for rate in (0.0, 1.0)
    ]  # fmt: skip
    files.write_json(root / "reports/map.json", {"code": f"commit abc{hostile}", "cells": cells})
