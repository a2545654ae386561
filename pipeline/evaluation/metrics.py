"""Scores of one predicted answer, each as its official evaluator computes it, and the class of its error.

All evaluators normalise alike (common/text.py). They are made for English; where a reference is Chinese, Japanese, Thai
or of another script without blanks, it and the prediction are normalised for these scripts instead. Every score is the
best over the references, between 0 and 1.

    exact_match, token_f1   SQuAD 2.0, evaluate-v2.0.py (rajpurkar/SQuAD-explorer)
    best_subspan_em         Lost in the Middle, src/lost_in_the_middle/metrics.py (nelson-liu/lost-in-the-middle)
    qasper_token_f1         Qasper, scripts/evaluator.py (allenai/qasper-led-baseline @afd0fb96)
    qasper_evidence_f1      the same, of the paragraphs that were given as evidence
    longbench_qa_f1         LongBench, metrics.py (THUDM/LongBench)
    hotpot_f1               HotpotQA, hotpot_evaluate_v1.py (hotpotqa/hotpot)

ROUGE is in rouge.py, and QuALITY's accuracy in multiple_choice.py.
"""

import string
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from pipeline.common.text import bag_f1, has_answer, is_unspaced, normalize, normalize_marks, normalize_unspaced

TYPES = ("extractive", "abstractive", "boolean", "none")
"""Types of a reference in Qasper."""
NO_TEXT = "FLOAT SELECTED"
"""Marks evidence in Qasper that is a figure or a table."""

ErrorClass = Literal["correct", "distraction", "other"]

_HOTPOT_WHOLE = ("yes", "no", "noanswer")
_SENTENCE_ENDS = ".,;:!? \u3002\uff0c\uff1b\uff1a\uff01\uff1f\u3001\uff0e"


def first_line(text: str, references: Sequence[str] = ()) -> str:
    """Cut a generated text before its first newline and strip it, as Lost in the Middle does; may be empty.

    Where a reference has several lines, as many are kept as the longest one has.
    """
    num_lines = max((reference.strip().count("\n") for reference in references), default=0) + 1
    return "\n".join(text.split("\n")[:num_lines]).strip()


def spelt_out(text: str) -> str:
    """Turn a text of articles or punctuation alone, as the answer "A", into a word; others stay as they are.

    SQuAD's rules drop both, so that "A" would equal an empty answer and stand in every text. For benchmarks without
    an official evaluator to agree with.
    """
    letters = text.strip().casefold()
    letters = letters.strip(string.punctuation) or letters
    return f"u{letters.encode().hex()}u" if letters and not normalize(text) else text


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction equals a reference, else 0. If no reference has words, only an empty one is right."""
    return float(any(found == expected for found, expected in _pairs(prediction, _squad_references(references))))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """Compute F1 of the bags of words; 1 when prediction and reference are both empty."""
    pairs = _pairs(prediction, _squad_references(references))
    return max(_squad_f1(found.split(), expected.split()) for found, expected in pairs)


def best_subspan_em(prediction: str, references: Sequence[str]) -> float:
    """Return 1 if the prediction contains a reference, even inside a word, else 0. Not an exact match.

    The official script passes `first_line` of the output. A reference that normalises to nothing is in every text.
    """
    return float(any(expected in found for found, expected in _pairs(prediction, references, normalize_marks)))


def qasper_token_f1(prediction: str, references: Sequence[str]) -> float:
    """Compute F1 of the bags of words; 0 when either is empty, also when both are, unlike SQuAD 2.0."""
    pairs = _pairs(prediction, references)
    return max((bag_f1(found.split(), expected.split()) for found, expected in pairs), default=0.0)


def qasper_evidence_f1(
    predicted: Sequence[str], references: Sequence[Sequence[str]], text_evidence_only: bool = False
) -> float:
    """Compute F1 of the predicted evidence paragraphs against each annotator's, and return the best.

    Whole paragraphs are compared, shared ones once, but the lengths of the lists count: a paragraph given twice costs.
    `text_evidence_only` removes figures and tables from the annotators' evidence, never from the predicted.
    """
    return max(
        _evidence_f1(predicted, [text for text in reference if not (text_evidence_only and NO_TEXT in text)])
        for reference in references
    )


def _evidence_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    if not found and not expected:
        return 1.0
    num_shared = len(set(found) & set(expected))
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(found), num_shared / len(expected)
    return 2 * precision * recall / (precision + recall)


longbench_qa_f1 = qasper_token_f1
"""LongBench's F1, which has Qasper's formula."""


def hotpot_f1(prediction: str, references: Sequence[str]) -> float:
    """Compute F1 of the bags of words; 0 when either is empty, or yes, no or noanswer and the other differs."""

    def of(found: str, expected: str) -> float:
        whole = found in _HOTPOT_WHOLE or expected in _HOTPOT_WHOLE
        return 0.0 if whole and found != expected else bag_f1(found.split(), expected.split())

    return max((of(*pair) for pair in _pairs(prediction, references)), default=0.0)


def error_class(prediction: str, references: Sequence[str], distractors: Mapping[str, str]) -> tuple[ErrorClass, str]:
    """Classify the error of an answer, and find the id of the first distractor that contains it (empty: none).

    `distraction` is a wrong answer (exact match 0) whose words follow each other in a distractor's text, even if they
    do so in the gold document too. Punctuation at the answer's end is ignored, as in exact match. An answer that
    normalises to nothing is no distraction error.
    """
    if exact_match(prediction, references) == 1.0:
        return "correct", ""
    for document_id, text in distractors.items():
        if is_in(text, prediction):
            return "distraction", document_id
    return "other", ""


def is_in(text: str, prediction: str) -> bool:
    """Whether the words of a prediction follow each other in the text; false if it normalises to nothing."""
    return normalize(prediction) != "" and has_answer(text, prediction.rstrip(_SENTENCE_ENDS))


def _pairs(
    prediction: str, references: Sequence[str], english: Callable[[str], str] = normalize
) -> list[tuple[str, str]]:
    """Normalise the prediction and each reference alike, by the rule of the reference's script."""
    rules = [normalize_unspaced if is_unspaced(reference) else english for reference in references]
    return [(rule(prediction), rule(reference)) for rule, reference in zip(rules, references, strict=True)]


def _squad_references(references: Sequence[str]) -> Sequence[str]:
    return [reference for reference in references if normalize(reference)] or [""]


def _squad_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    if not found or not expected:
        return float(found == expected)
    return bag_f1(found, expected)
