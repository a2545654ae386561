"""QuALITY's accuracy, and the option that a generated answer names.

There is no official script; the rules are in README.md and leaderboard/submission.md of nyu-mll/quality @f84977c4:
accuracy over all questions and over the hard ones, labels from 1, -1 abstains. The SAT-style score of the paper (arXiv
2112.08608) subtracts a third of a point for a wrong answer and nothing for an abstention.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import regex

from pipeline.common.text import normalize

ABSTAINS = -1

# A Latin letter on its own: no part of a word, of a compound (D-Day, A-list), an abbreviation (U.S., I'd), or C++.
_ALONE = regex.compile(
    r"(?<![\p{L}\p{N}\p{M}_]|[\p{L}\p{N}][-.'\u2019&+])[A-Za-z](?![\p{L}\p{N}\p{M}_+#]|[-.'\u2019&][\p{L}\p{N}])"
)
_PUNCTUATION = regex.compile(r"[^\p{L}\p{N}\p{M}\s]|[\n\r]|\s*$|\s+[-\u2013\u2014:=]\s")
_LEAD = regex.compile(r"[^\p{L}\p{N}\p{M}]*")
_NAMING = regex.compile(r"\b(?:option|choice|letter)\W*$")
_ANSWERING = regex.compile(
    r"\b(?:answer|option|choice|letter|choose|pick|select|correct)\W+"
    r"(?:(?:is|are|was|be|would|should|must|option|choice|letter|the|my|correct|right|best|final|one)\W+){0,5}$"
)
_OTHER = regex.compile(r"\s+(?:or|and|nor)\s+\W?[A-Z](?!\w)")
_REACH = 60  # characters before a letter that may announce it
_ENGLISH_WORDS = "AaIi"


def quality_accuracy(predictions: Mapping[str, int], references: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Score labels from 1 (-1 abstains) by id, against {"gold_label": 1 to 4, "difficult": 1, 0 or None} by id.

    Returns `n`, `accuracy` and `sat_style` (from -1/3 to 1) over all questions, and the same with suffix `_hard` over
    the hard ones; scores over no questions are None. A question without a prediction counts as wrong, in the SAT-style
    scores too. Other predictions are ignored.
    """
    found: dict[str, Any] = {}
    hard = [name for name, question in references.items() if question["difficult"] == 1]
    for suffix, names in (("", list(references)), ("_hard", hard)):
        num_right = sum(predictions.get(name) == references[name]["gold_label"] for name in names)
        num_abstained = sum(predictions.get(name) == ABSTAINS for name in names)
        num_wrong = len(names) - num_right - num_abstained
        found[f"n{suffix}"] = len(names)
        found[f"accuracy{suffix}"] = num_right / len(names) if names else None
        found[f"sat_style{suffix}"] = (num_right - num_wrong / 3) / len(names) if names else None
    return found


def parse_option(text: str, options: Sequence[str]) -> int:
    """Find the option that a generated answer names, from 0; -1: it names none, or more than one.

    An option is named by its text, if that is all there is and of one option only, or by its letter: alone ("b"), in
    front of a sign or of words ("B.", "B because"), in brackets or announced ("the answer is B"). The words "A" and "I"
    are letters only before a sign or the end. A second letter anywhere, or another option's text, spoils the answer.
    """
    texts = [normalize(option) for option in options]
    lead = _LEAD.match(text).end()
    whole = normalize(text)
    if (place := _equal(whole, texts)) >= 0:
        alone = ord(whole.upper()) - ord("A") if len(whole) == 1 else place
        return place if alone == place or not 0 <= alone < len(options) else -1
    named: set[int] = set()
    seen: set[int] = set()
    for match in _ALONE.finditer(text):
        at, place = match.start(), ord(match[0].upper()) - ord("A")
        if place >= len(options):
            continue
        if _names(text, at, opens=at == lead):
            seen.add(place)
            if not named and (rest := _equal(normalize(text[at + 1 :]), texts)) >= 0:
                # All that follows is the option's text: letters in it say nothing.
                return place if seen == {place} and rest == place else -1
            named.add(place)
        elif _mentions(text, at):
            seen.add(place)
        if len(seen) > 1:
            return -1
    return named.pop() if named else -1


def _names(text: str, at: int, opens: bool) -> bool:
    """Whether the letter at `at` is given as an answer."""
    letter, before = text[at], text[max(0, at - _REACH) : at].lower()
    signed = _PUNCTUATION.match(text, at + 1) is not None
    # A word of English needs a sign behind it; a small letter stands for an option only where one is expected.
    certain = signed or letter not in _ENGLISH_WORDS
    bracketed = before.endswith(("(", "[", "{")) and text.startswith((")", "]", "}"), at + 1)
    labelled = text.startswith(")", at + 1) and (opens or before[-1:].isspace())
    announced = certain and _ANSWERING.search(before) is not None
    called = letter.isupper() and _NAMING.search(before) is not None
    concluded = signed and letter.isupper() and before.endswith((" is ", "it's ", "it\u2019s "))
    opening = opens and certain and (signed or letter.isupper())
    return bracketed or labelled or announced or called or concluded or opening


def _mentions(text: str, at: int) -> bool:
    """Whether the letter at `at` may mean an option: this makes an answer doubtful, but is no answer by itself."""
    signed = _PUNCTUATION.match(text, at + 1) is not None
    listed = _OTHER.match(text, at + 1) is not None
    return signed or listed or (text[at].isupper() and text[at] not in _ENGLISH_WORDS)


def _equal(found: str, texts: Sequence[str]) -> int:
    """Find the one text that equals `found`; -1: none, or several."""
    return texts.index(found) if found and texts.count(found) == 1 else -1
