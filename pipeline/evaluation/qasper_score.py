"""Qasper's scores of one question, as scripts/evaluator.py of allenai/qasper-led-baseline @afd0fb96 computes them.

Answer F1 is the best over the annotators and counts for the type of the best one, the first of equals. Evidence F1 is
the best over the annotators on its own: it compares whole paragraphs as they are, shared ones once, and divides by the
lengths of the lists, so that a paragraph given twice costs.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from pipeline.common.normalization import bag_f1, normalize

TYPES = ("extractive", "abstractive", "boolean", "none")
_NO_TEXT = "FLOAT SELECTED"  # opens the evidence that is a figure or a table


class QasperScores(TypedDict):
    """F1 from 0 to 1, and one of TYPES."""

    answer_f1: float
    evidence_f1: float
    booked_type: str


class Reference(NamedTuple):
    """What one annotator answered."""

    text: str
    kind: str
    evidence: Sequence[str]


def reference(answer: Mapping[str, Any]) -> Reference:
    """Of one official `answer`: unanswerable goes before spans, these before a free form, that before yes and no.

    Raises:
        ValueError: it has none of them.
    """
    if answer["unanswerable"]:
        return Reference("Unanswerable", "none", [])
    if answer["extractive_spans"]:
        return Reference(", ".join(answer["extractive_spans"]), "extractive", answer["evidence"])
    if answer["free_form_answer"]:
        return Reference(answer["free_form_answer"], "abstractive", answer["evidence"])
    if answer["yes_no"] is not None:
        return Reference("Yes" if answer["yes_no"] else "No", "boolean", answer["evidence"])
    raise ValueError("an annotator's answer is neither unanswerable nor has it spans, a free form, or a yes or no")


def qasper_scores(
    prediction: Mapping[str, Any], answers: Sequence[Mapping[str, Any]], text_evidence_only: bool = False
) -> QasperScores:
    """Scores of {"predicted_answer": text, "predicted_evidence": [paragraph, ...]} against a question's `answers`.

    `answers` is the list of Qasper v0.3, an item an annotator. `text_evidence_only` takes figures and tables out of the
    annotators' evidence, never out of the prediction's.

    Raises:
        ValueError: `answers` is empty (the official evaluator stops with an IndexError), or one of them says nothing.
    """
    if not answers:
        raise ValueError("answers is empty: a question without an annotator's answer has no score; leave it out")
    references = [reference(item["answer"]) for item in answers]
    words = normalize(prediction["predicted_answer"]).split()
    scores = [bag_f1(words, normalize(found.text).split()) for found in references]
    best = max(range(len(scores)), key=lambda place: scores[place])  # the first of equals
    evidence = [
        [text for text in found.evidence if not (text_evidence_only and _NO_TEXT in text)] for found in references
    ]
    return {
        "answer_f1": scores[best],
        "evidence_f1": max(_evidence_f1(prediction["predicted_evidence"], expected) for expected in evidence),
        "booked_type": references[best].kind,
    }


def _evidence_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    if not found and not expected:
        return 1.0
    num_shared = len(set(found) & set(expected))
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(found), num_shared / len(expected)
    return 2 * precision * recall / (precision + recall)
