"""Does a text hold an answer? The one rule for answer retention, distractor hygiene and distraction errors.

As DPR's and Contriever's `has_answer` (facebookresearch/contriever @39fb2201): Unicode NFD, lower case, runs of
letters, numbers and marks or single other characters as tokens, and the answer's tokens in a row inside the text's.
"""

import unicodedata
from functools import lru_cache

import regex

_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")


@lru_cache(maxsize=65_536)
def tokens(text: str) -> str:
    """The text's tokens between blanks, with a blank at both ends, so that `in` compares whole tokens."""
    return " " + " ".join(_TOKEN.findall(unicodedata.normalize("NFD", text).lower())) + " "


def contains(text: str, answer: str) -> bool:
    """The answer's tokens stand in a row in the text; an answer without tokens is nowhere."""
    wanted = tokens(answer)
    return wanted.strip() != "" and wanted in tokens(text)


def find(text: str, answer: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each place where the answer stands, by the rule of `contains`; none overlap."""
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
