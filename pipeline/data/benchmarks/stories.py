"""Finds the paragraphs of the stories of QuALITY and SQuALITY, whose HTML was stripped.

The stripped files tell paragraphs by white space. · is a blank, N a line break:

                                             QuALITY    SQuALITY, most     SQuALITY, some
    wrapped line                             N·         not wrapped        N
    <br>: a line of a note or of verse       NN·        a blank            N···N··
    paragraph                                NNN·       N·N·               N·N··
    section; border of an inline tag (<i>)   N          N·N·N·NN·N·, N     N

(nyu-mll/quality @f84977c4, v1.0.1 htmlstripped; nyu-mll/SQuALITY @dc08d4f5, v1-3/txt.) Other converters leave a plain
blank line between paragraphs. A lone N is a border only where a sentence ends before it and what follows may open one,
so an italic sentence is set off like a section, and a hard-wrapped text without indents is now and then divided between
two sentences.
"""

import re

import regex

_PARAGRAPH_BESIDE_BR = re.compile(r"\n\n\n |\n \n  ")
_BR = re.compile(r"(?<=\S)(?:\n\n |\n {3}\n {2})(?=\S)")
_BORDER = regex.compile(
    r"""\n\s*\n|(?<=[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\p{Pi}"']*)\n(?=[\p{Lu}\p{Lt}\p{Lo}\p{Nd}\p{Ps}\p{Pi}"'])"""
)


def reflow(text: str) -> str:
    """Keep the words: single blanks inside a paragraph, a blank line between paragraphs, no other white space."""
    if _PARAGRAPH_BESIDE_BR.search(text):
        text = _BR.sub(" ", text)
    paragraphs = (" ".join(paragraph.split()) for paragraph in _BORDER.split(text))
    return "\n\n".join(filter(None, paragraphs))
