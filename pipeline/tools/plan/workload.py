"""How much there is to read: rows, contexts and tokens, counted from the views, estimated from texts, or known before.

Where nothing is there to count, the sizes below stand for the benchmarks' official files: contexts and questions as
their authors count them, tokens by Mistral's tokenizer (QuALITY, Qasper, NQ) or 1.45 tokens of a word (the others). A
vocabulary below 8,192 makes about twice as many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

SMALL_VOCABULARY = 8_192
SMALL_VOCABULARY_FACTOR = 2.1
CHARACTERS_PER_TOKEN = 4.3
"""Of English, by a vocabulary of 32,000; where no tokenizer is at hand."""


class Rows(NamedTuple):
    """The full views of one split."""

    num: int
    num_contexts: int
    """Distinct ones: questions of one context share it."""
    mean_tokens: float
    longest: int
    """Tokens of the longest row."""
    question_tokens: float
    """Of a row: what follows the context in its prompt."""
    label_tokens: float
    """Of a row: its answer and EOS."""


NO_ROWS = Rows(0, 0, 0.0, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Workload:
    """All that a plan needs to know of the data."""

    source: str
    """Where the numbers come from, in words."""
    train: Rows
    asked: Rows
    """Of the split that evaluation asks."""
    masked_share: float
    """Tokens of a masked view to those of its full view; of mode `token` 1."""
    kept_share: float
    """Tokens of the kept chunks to those of the context: what retrieval at inference reads."""
    num_texts: int
    """Distinct chunks and questions."""
    text_tokens: float
    """Of one of them, by the retriever's tokenizer."""
    num_unlabelled: int = 0
    """Questions of split unlabelled, over contexts like those of train."""
    surface: Rows = NO_ROWS
    """Of split surface."""


def count(tokens: Sequence[int], question: Sequence[int], labels: Sequence[int], num_contexts: int) -> Rows:
    """Rows counted one by one; without any, zeros."""
    num = len(tokens)
    if not num:
        return NO_ROWS
    return Rows(num, num_contexts, sum(tokens) / num, max(tokens), sum(question) / num, sum(labels) / num)


def cut(rows: Rows, max_tokens: int) -> Rows:
    """No row longer than `max_tokens`."""
    return rows._replace(mean_tokens=min(rows.mean_tokens, max_tokens), longest=min(rows.longest, max_tokens))


class Known(NamedTuple):
    """A benchmark before it is downloaded. Contexts and questions of each split: train, dev, test."""

    contexts: tuple[int, int, int]
    questions: tuple[int, int, int]
    mean_tokens: int
    longest: int
    question_tokens: int
    label_tokens: int


KNOWN = {
    "quality": Known((135, 15, 115), (2_270, 253, 2_086), 7_485, 8_232, 90, 3),
    "qasper": Known((888, 281, 416), (2_593, 1_005, 1_451), 4_900, 11_012, 25, 20),
    "nq": Known((86_000, 1_750, 39_825), (86_000, 1_750, 39_825), 2_700, 4_600, 20, 6),
    "hotpot": Known((0, 0, 1_000), (0, 0, 1_000), 1_350, 3_000, 30, 6),
    "longbench": Known((0, 0, 600), (0, 0, 600), 12_200, 24_000, 30, 6),
    "squality": Known((50, 25, 52), (250, 125, 260), 7_500, 9_500, 25, 340),
}
_BIOS_TOKENS = 71.0  # of one generated biography with its header, by the tiny tokenizer: 12 make 858
_BIOS_QUESTION, _BIOS_LABELS = 22, 6


def known(benchmark: str, split: str, vocabulary: int) -> Rows | None:
    """Of a split of a benchmark's official files; None: not known."""
    if benchmark not in KNOWN:
        return None
    of, place = KNOWN[benchmark], ("train", "dev", "test").index(split)
    factor = SMALL_VOCABULARY_FACTOR if vocabulary < SMALL_VOCABULARY else 1.0
    return Rows(
        of.questions[place],
        of.contexts[place],
        of.mean_tokens * factor if of.questions[place] else 0.0,
        round(of.longest * factor) if of.questions[place] else 0,
        of.question_tokens * factor,
        of.label_tokens,
    )


def generated(num_questions: int, documents: Sequence[int], vocabulary: int) -> Rows:
    """Of a split of the generated biographies: every question once for each number of documents."""
    factor = 1.0 if vocabulary < SMALL_VOCABULARY else 1 / SMALL_VOCABULARY_FACTOR
    num = num_questions * len(documents)
    if not num:
        return count([], [], [], 0)
    mean = factor * _BIOS_TOKENS * sum(documents) / len(documents)
    longest = round(1.1 * factor * _BIOS_TOKENS * max(documents))
    return Rows(num, num, mean, longest, _BIOS_QUESTION, _BIOS_LABELS)


def with_cut(work: Workload, max_tokens: int) -> Workload:
    """The same with rows of `max_tokens` at most."""
    return replace(
        work,
        train=cut(work.train, max_tokens),
        asked=cut(work.asked, max_tokens),
        surface=cut(work.surface, max_tokens),
    )
