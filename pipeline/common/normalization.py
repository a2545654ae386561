"""Texts as the official evaluators compare them, and the F1 of two texts' words.

All normalise in the same order: lower case, ASCII punctuation deleted ("a-b" becomes "ab"), articles out, blanks
collapsed; no Unicode normalisation.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

import regex

_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = r"\b(a|an|the)\b"
_ARTICLES_RE = re.compile(_ARTICLES)
# A combining mark is part of the word for `regex`, a word border for `re`: "an" + U+0303 loses its "an" with `re` only.
_ARTICLES_REGEX = regex.compile(_ARTICLES)


def normalize(text: str) -> str:
    """The text as SQuAD, Qasper, HotpotQA and LongBench compare it."""
    return " ".join(_ARTICLES_RE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def normalize_marks(text: str) -> str:
    """The text as Lost in the Middle compares it."""
    return " ".join(_ARTICLES_REGEX.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def bag_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of two bags of words; 0 when either is empty, also when both are."""
    num_shared = (Counter(found) & Counter(expected)).total()
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(found), num_shared / len(expected)
    return 2 * precision * recall / (precision + recall)
