"""What QuALITY and SQuALITY have in common: stories whose HTML was stripped, and questions about one story each.

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
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import regex

from pipeline.common.tables import Benchmark, Document, Example
from pipeline.data import splits

_PARAGRAPH_BESIDE_BR = re.compile(r"\n\n\n |\n \n  ")
_BR = re.compile(r"(?<=\S)(?:\n\n |\n {3}\n {2})(?=\S)")
_BORDER = regex.compile(
    r"""\n\s*\n|(?<=[\p{Sentence_Terminal}…][\p{Pe}\p{Pf}\p{Pi}"']*)\n(?=[\p{Lu}\p{Lt}\p{Lo}\p{Nd}\p{Ps}\p{Pi}"'])"""
)


def reflow(text: str) -> str:
    """The same words: single blanks inside a paragraph, a blank line between paragraphs, no other white space."""
    if _PARAGRAPH_BESIDE_BR.search(text):
        text = _BR.sub(" ", text)
    paragraphs = (" ".join(paragraph.split()) for paragraph in _BORDER.split(text))
    return "\n\n".join(filter(None, paragraphs))


def benchmark(
    documents: Mapping[str, Document],
    examples: Iterable[Example],
    *,
    dev_fraction: float,
    test_fraction: float,
    seed: int,
    max_questions: int | None,
) -> Benchmark:
    """Examples whose `split` is that of their file, and their stories by id: train's stories are held out whole.

    Of each split the first `max_questions` are taken (None: all); a story that none of them asks about is left out.
    """
    examples = list(examples)
    names = [example.document_ids[0] for example in examples if example.split == "train"]
    split_of = splits.held_out(names, dev_fraction=dev_fraction, test_fraction=test_fraction, seed=seed)
    num_taken: Counter[str] = Counter()
    taken = []
    for example in examples:
        split = split_of.get(example.document_ids[0], example.split)
        if max_questions is None or num_taken[split] < max_questions:
            num_taken[split] += 1
            taken.append(replace(example, split=split))
    used = {example.document_ids[0] for example in taken}
    return Benchmark([document for name, document in documents.items() if name in used], taken)
