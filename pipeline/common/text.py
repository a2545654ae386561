"""Text matching: whether a text holds an answer, and SQuAD's normalisation of answers."""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import regex

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


@lru_cache(maxsize=65_536)
def tokens(text: str) -> str:
    """The text's tokens between blanks, with a blank at both ends, so that `in` compares whole tokens."""
    return " " + " ".join(_TOKEN.findall(unicodedata.normalize("NFD", text).lower())) + " "


def has_answer(text: str, answer: str) -> bool:
    """The answer's tokens stand in a row in the text; an answer without tokens is nowhere."""
    wanted = tokens(answer)
    return wanted.strip() != "" and wanted in tokens(text)


def find_answer(text: str, answer: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each place where the answer stands, by the rule of `has_answer`; none overlap."""
    wanted = tokens(answer).split()
    # Decomposed character by character, to know where each piece comes from.
    pieces = [(piece, place) for place, letter in enumerate(text) for piece in unicodedata.normalize("NFD", letter)]
    found = [
        (tokens(match[0]).strip(), pieces[match.start()][1], pieces[match.end() - 1][1] + 1)
        for match in _TOKEN.finditer("".join(piece for piece, _ in pieces))
    ]
    places: list[tuple[int, int]] = []
    index = 0
    while wanted and index + len(wanted) <= len(found):
        if [token for token, _, _ in found[index : index + len(wanted)]] == wanted:
            places.append((found[index][1], found[index + len(wanted) - 1][2]))
            index += len(wanted)
        else:
            index += 1
    return places


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


def percent(share: float | None) -> str:
    """Write a share in percent; `unknown` for None."""
    return "unknown" if share is None else f"{share:.1%}"
