"""Cut documents into chunks: at the ends of paragraphs where possible, else of sentences, else of words.

Words are those of `text.word_spans`: separated by white space, or counted by letters where a script or a long run has
none. A paragraph ends at a blank line; a sentence ends at the end of a word that ends in a full stop, question or
exclamation mark of any script, with closing quotes and brackets. Abbreviations count as sentence ends: a cut after
"Mr." does no harm to retrieval.
"""

import re
from collections.abc import Mapping
from typing import Any

import regex

from pipeline.common.text import word_spans

_SENTENCE_END = regex.compile(r"""[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\p{Pi}"']*\Z""")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|\r[^\S\r\n]*\r|\u2029")


def split(text: str, max_words: int) -> list[tuple[int, int]]:
    """Return character spans [start, end) of chunks of at most `max_words` words.

    The spans cover the text without gaps; white space belongs to the chunk before it, and no chunk is only white space.
    A chunk ends at its last paragraph end if that leaves it at least half full, else at its last sentence end, else
    (one sentence is longer than `max_words`) at its last white space if that leaves it at least half full, else at its
    last word. A blank text is one chunk, an empty text has none. The time is linear in the length of the text.
    """
    words = word_spans(text)
    last_paragraph, last_sentence, last_blank = _ends(text, words)
    cuts = [0]
    first = 0
    while len(words) - first > max_words:
        last = first + max_words - 1
        half = first + (max_words - 1) // 2
        if last_paragraph[last] >= half:
            last = last_paragraph[last]
        elif last_sentence[last] >= first:
            last = last_sentence[last]
        elif last_blank[last] >= half:
            last = last_blank[last]
        first = last + 1
        cuts.append(words[first][0])
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True)) if text else []


def rows(document: Mapping[str, Any], max_words: int) -> list[dict[str, Any]]:
    """Cut a row of tables.DOCUMENTS into rows of tables.CHUNKS; a document marked `whole` is one chunk."""
    text = document["text"]
    spans = [(0, len(text))] if document["whole"] else split(text, max_words)
    return [
        {
            "chunk_id": f"{document['document_id']}#{index}",
            "document_id": document["document_id"],
            "index": index,
            "start": start,
            "end": end,
            "title": document["title"],
            "text": text[start:end],
        }
        for index, (start, end) in enumerate(spans)
    ]


def _ends(text: str, words: list[tuple[int, int]]) -> tuple[list[int], list[int], list[int]]:
    """For each word, return the last word up to it that ends a paragraph, that ends a sentence, and that stands before
    white space; -1: none does."""
    last_paragraph, last_sentence, last_blank = [], [], []
    paragraph = sentence = blank = -1
    for index, (start, end) in enumerate(words):
        next_start = words[index + 1][0] if index + 1 < len(words) else len(text)
        if next_start > end:
            blank = index
        if _BLANK_LINE.search(text, end, next_start):
            paragraph = sentence = index
        elif _SENTENCE_END.search(text, start, end):
            sentence = index
        last_paragraph.append(paragraph)
        last_sentence.append(sentence)
        last_blank.append(blank)
    return last_paragraph, last_sentence, last_blank
