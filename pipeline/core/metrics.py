"""Scores of one predicted answer, each as its official evaluator computes it, and the kind of error behind a wrong one.

All evaluators normalise in the same order: lower case, ASCII punctuation deleted ("a-b" becomes "ab"), articles out,
blanks collapsed; no Unicode normalisation. Every score is the best over the references, between 0 and 1.

    exact_match, token_f1   SQuAD 2.0, evaluate-v2.0.py (rajpurkar/SQuAD-explorer)
    best_subspan_em         Lost in the Middle, src/lost_in_the_middle/metrics.py (nelson-liu/lost-in-the-middle)
    qasper_token_f1         Qasper, scripts/evaluator.py (allenai/qasper-led-baseline)
    longbench_qa_f1         LongBench, metrics.py (THUDM/LongBench)
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import regex

from pipeline.core import answers

ErrorClass = Literal["correct", "distraction", "other"]

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = r"\b(a|an|the)\b"
_ARTICLES_RE = re.compile(_ARTICLES)
# A combining mark is part of the word for `regex`, a word border for `re`: "an" + U+0303 loses its "an" with `re` only.
_ARTICLES_REGEX = regex.compile(_ARTICLES)
_SENTENCE_ENDS = ".,;:!? "


def first_line(text: str) -> str:
    """What Lost in the Middle scores of a generated text: all before the first newline, stripped; may be empty."""
    return text.split("\n")[0].strip()


def normalize(text: str) -> str:
    """The text as SQuAD, Qasper and LongBench compare it."""
    return " ".join(_ARTICLES_RE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def exact_match(prediction: str, references: Sequence[str]) -> float:
    """1 if the prediction equals a reference, else 0. Without real references only an empty prediction is right."""
    found = normalize(prediction)
    return float(any(found == normalize(reference) for reference in _squad_references(references)))


def token_f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the bags of words; 1 when prediction and reference are both empty."""
    found = normalize(prediction).split()
    return max(_squad_f1(found, normalize(reference).split()) for reference in _squad_references(references))


def best_subspan_em(prediction: str, references: Sequence[str]) -> float:
    """1 if a reference stands anywhere in the prediction, even inside a word, else 0. Not an exact match.

    The official script gives `first_line` of the output here. A reference that normalises to nothing is in everything.
    """
    found = _normalize_regex(prediction)
    return float(any(_normalize_regex(reference) in found for reference in references))


def qasper_token_f1(prediction: str, references: Sequence[str]) -> float:
    """F1 of the bags of words; 0 when either is empty, also when both are, unlike SQuAD 2.0."""
    found = normalize(prediction).split()
    return max((_bag_f1(found, normalize(reference).split()) for reference in references), default=0.0)


def longbench_qa_f1(prediction: str, references: Sequence[str]) -> float:
    """LongBench took over Qasper's formula."""
    return qasper_token_f1(prediction, references)


def error_class(prediction: str, references: Sequence[str], distractors: Sequence[str]) -> tuple[ErrorClass, int]:
    """Why an answer is wrong, and the index of the first distractor that holds it (-1: none).

    `distraction` is a wrong answer (exact match 0) whose words stand in a row in a distractor's text, even if they
    stand in the gold document too: the model gave what the distractor says and not what was asked. Punctuation at the
    answer's end is left away, as exact match ignores it. An answer that normalises to nothing distracts nobody.
    """
    if exact_match(prediction, references) == 1.0:
        return "correct", -1
    if normalize(prediction):
        words = prediction.rstrip(_SENTENCE_ENDS)
        for index, text in enumerate(distractors):
            if answers.contains(text, words):
                return "distraction", index
    return "other", -1


def _normalize_regex(text: str) -> str:
    return " ".join(_ARTICLES_REGEX.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def _squad_references(references: Sequence[str]) -> Sequence[str]:
    return [reference for reference in references if normalize(reference)] or [""]


def _squad_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    if not found or not expected:
        return float(found == expected)
    return _bag_f1(found, expected)


def _bag_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    num_shared = (Counter(found) & Counter(expected)).total()
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(found), num_shared / len(expected)
    return 2 * precision * recall / (precision + recall)
