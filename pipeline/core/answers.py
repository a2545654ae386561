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
