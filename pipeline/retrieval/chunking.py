"""Documents into chunks: whole paragraphs where they fit, else whole sentences, else whole words.

Words are what `str.split` finds. A paragraph ends at a blank line, a sentence at a full stop, question or exclamation
mark of any script (quotes and brackets may follow) before white space. Abbreviations pass for sentence ends; chunks are
units of retrieval, and a cut behind "Mr." does them no harm. What has no white space, a text in Chinese or a kilobyte
of base64, is one word and is never cut: the retriever counts what it truncates.
"""

import re
from collections.abc import Mapping
from typing import Any

import regex

_WORD = re.compile(r"\S+")
_SENTENCE_END = regex.compile(r"""[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\p{Pi}"']*\Z""")
_BLANK_LINE = re.compile(r"\n[^\S\n]*\n|\r[^\S\r\n]*\r|\u2029")

Span = tuple[int, int]


def split(text: str, max_words: int) -> list[Span]:
    """Cut `text` into chunks of at most `max_words` words; character spans [start, end), none of white space alone.

    The spans touch and cover the text, so joining the chunks gives it back; white space belongs to the chunk before it.
    A chunk ends at its last paragraph border if that leaves it at least half full, else at its last sentence border,
    else (one sentence is longer than `max_words`) at its last word. Linear in the length of the text. A blank text is
    one chunk, an empty one none.
    """
    words = [match.span() for match in _WORD.finditer(text)]
    last_paragraph, last_sentence = _borders(text, words)
    cuts = [0]
    first = 0
    while len(words) - first > max_words:
        last = first + max_words - 1
        if last_paragraph[last] >= first + (max_words - 1) // 2:
            last = last_paragraph[last]
        elif last_sentence[last] >= first:
            last = last_sentence[last]
        first = last + 1
        cuts.append(words[first][0])
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True)) if text else []


def rows(document: Mapping[str, Any], max_words: int) -> list[dict[str, Any]]:
    """The chunks of a document (row of tables.DOCUMENTS) as rows of tables.CHUNKS; one that is `whole` is one chunk."""
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


def _borders(text: str, words: list[Span]) -> tuple[list[int], list[int]]:
    """For each word the last word, itself included, that closes a paragraph, and that closes a sentence; -1: none."""
    last_paragraph, last_sentence = [], []
    paragraph = sentence = -1
    for index, (start, end) in enumerate(words):
        next_start = words[index + 1][0] if index + 1 < len(words) else len(text)
        if _BLANK_LINE.search(text, end, next_start):
            paragraph = sentence = index
        elif _SENTENCE_END.search(text, start, end):
            sentence = index
        last_paragraph.append(paragraph)
        last_sentence.append(sentence)
    return last_paragraph, last_sentence
