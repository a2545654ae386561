"""The rows, contexts and tokens that a run reads, from the best source on disk.

Fresh views are counted, else fresh texts are estimated from their characters, else the known sizes of the benchmarks'
official files are taken: contexts and questions as their authors count them, tokens by Mistral's tokenizer (QuALITY,
Qasper, NQ) or 1.45 tokens per word (the others). A vocabulary below 8,192 makes about twice as many tokens. Files are
fresh when `dvc status` finds that the present settings and code made them. Nothing here imports torch.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from pipeline.common import files, tables
from pipeline.common.text import UNSPACED
from pipeline.runtime.settings import BiosData, OfficialData, Settings

MASK = Path("reports/mask.json")
WORDPIECES_PER_WORD = 1.35
"""Tokens of the retriever's encoder in a word of English."""

_TEXT_STAGES = {"prepare", "chunk"}
_VIEW_STAGES = {*_TEXT_STAGES, "base", "tokenize"}
_MASK_STAGES = {*_VIEW_STAGES, "score", "mask"}
_SMALL_VOCABULARY = 8_192
_SMALL_VOCABULARY_FACTOR = 2.1
_CHARACTERS_PER_TOKEN = 4.3  # of English, by a vocabulary of 32,000
_WORDPIECE_CHARACTERS = 4.5
_TOKENS_PER_LETTER = 1.4  # of Chinese, Thai or Korean, by the same vocabulary
_BIOS_DOCUMENTS, _BIOS_WORDS = 0.83, 53  # generated biographies per question asked, and words of each
_BIOS_TOKENS = 71.0  # of one generated biography with its header, by the tiny tokenizer: 12 make 858
_BIOS_QUESTION, _BIOS_LABELS = 22, 6


class Rows(NamedTuple):
    """Sizes of the full views of one split."""

    num: int
    num_contexts: int
    """Distinct contexts; several questions may share one."""
    mean_tokens: float
    longest: int
    """Tokens of the longest row."""
    question_tokens: float
    """Tokens of a row's prompt behind its context."""
    label_tokens: float
    """Tokens of a row's answer, EOS included."""


NO_ROWS = Rows(0, 0, 0.0, 0, 0.0, 0.0)
_GUESS = Rows(1_000, 1_000, 4_000.0, 8_000, 40.0, 10.0)


@dataclass(frozen=True)
class Workload:
    """All that a plan needs to know about the data."""

    source: str
    """Where the numbers come from, in words."""
    train: Rows
    asked: Rows
    """Rows of the split that evaluation asks."""
    masked_share: float
    """Tokens of a masked view over those of its full view; 1 in mode `token`."""
    kept_share: float
    """Tokens of the kept chunks over those of the context: what retrieval at inference reads."""
    num_texts: int
    """Distinct chunks and questions."""
    text_tokens: float
    """Mean tokens of one of these texts, by the retriever's tokenizer."""
    num_unlabelled: int = 0
    """Questions of split unlabelled, over contexts like those of train."""
    surface: Rows = NO_ROWS
    """Rows of split surface."""

    def cut(self, max_tokens: int) -> "Workload":
        """The same workload with rows of at most `max_tokens`."""
        train, asked, surface = (
            rows._replace(mean_tokens=min(rows.mean_tokens, max_tokens), longest=min(rows.longest, max_tokens))
            for rows in (self.train, self.asked, self.surface)
        )
        return replace(self, train=train, asked=asked, surface=surface)


KNOWN = {  # questions and contexts of each split, then the sizes of a row that all splits share
    "quality": ({"train": (2_270, 135), "dev": (253, 15), "test": (2_086, 115)}, (7_485, 8_232, 90, 3)),
    "qasper": ({"train": (2_593, 888), "dev": (1_005, 281), "test": (1_451, 416)}, (4_900, 11_012, 25, 20)),
    "nq": ({"train": (86_000, 86_000), "dev": (1_750, 1_750), "test": (39_825, 39_825)}, (2_700, 4_600, 20, 6)),
    "nq-oracle": ({"train": (1_723, 169), "dev": (318, 32), "test": (1_842, 214)}, (1_400, 3_300, 20, 6)),
    "squad": (
        {"train": (117_000, 1_710), "dev": (11_873, 121), "test": (39_000, 665)},
        (1_800, 4_000, 20, 6),
    ),
    "hotpot": ({"test": (1_000, 1_000)}, (1_350, 3_000, 30, 6)),
    "longbench": ({"test": (600, 600)}, (12_200, 24_000, 30, 6)),
    "squality": ({"train": (250, 50), "dev": (125, 25), "test": (260, 52)}, (7_500, 9_500, 25, 340)),
}
"""Sizes of the benchmarks' official files, by data.kind."""


def find(settings: Settings, vocabulary: int) -> Workload:
    """Measure the workload of the settings; `vocabulary` is the size of the base model's."""
    stale = _stale()
    has_texts, has_views, has_mask = (not stages & stale for stages in (_TEXT_STAGES, _VIEW_STAGES, _MASK_STAGES))
    splits = ("train", settings.eval.split, "unlabelled", "surface")
    if has_texts:
        views = _counted() if has_views else _estimated(vocabulary)
        estimated = f"{tables.EXAMPLES} and {tables.CHUNKS}, tokens estimated from characters"
        source = f"{tables.FULL_VIEWS}, counted" if has_views else estimated
        rows = {split: _rows(views, split) for split in splits}
    else:
        rows, source = _from_benchmark(settings, splits, vocabulary)
    train, asked = rows["train"], rows[settings.eval.split]
    any_rows = train if train.num else asked
    mean_tokens = max(any_rows.mean_tokens, 1.0)
    chunk_tokens = settings.chunk.words * (1.45 if vocabulary >= _SMALL_VOCABULARY else 3.0)
    shares = files.read_json(MASK, "mask")["splits"].get("train") if has_mask else None
    if shares:
        masked_share = shares["mean_tokens_masked"] / shares["mean_tokens_full"]
        kept_share = shares["kept_token_share"]
    else:
        kept_share = min(1.0, settings.mask.top_k * chunk_tokens / mean_tokens)
        masked_share = min(1.0, kept_share + (any_rows.question_tokens + any_rows.label_tokens) / mean_tokens)
    num_chunks, wordpieces = _chunks(settings, has_texts, train, asked, chunk_tokens)
    num_questions = train.num + asked.num
    num_texts = num_chunks + num_questions
    text_tokens = (num_chunks * wordpieces + num_questions * 20.0) / max(num_texts, 1)
    if not has_views:
        source += "; `dvc repro tokenize mask` makes it exact"
    return Workload(
        source, train, asked, masked_share, kept_share, num_texts, text_tokens, rows["unlabelled"].num, rows["surface"]
    ).cut(settings.model.max_tokens)


def _stale() -> set[str]:
    """Stages up to mask whose outputs are out of date with the settings or the code; all of them when unknown."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--with-deps", "--json", "mask"], capture_output=True, text=True
    )
    try:
        return set(json.loads(done.stdout))
    except ValueError:  # no DVC project, or a lock held by a run
        return _MASK_STAGES


def _counted() -> pl.DataFrame:
    """Count the tokens of every full view: columns split, document_ids, tokens, question, labels."""
    columns = ["split", "document_ids", "input_ids", "question_start", "prompt_end"]
    tokens = pl.col("input_ids").list.len().cast(pl.Int64)
    return tables.frame(tables.FULL_VIEWS, columns).select(
        "split",
        "document_ids",
        tokens=tokens,
        question=pl.col("prompt_end") - pl.col("question_start"),
        labels=tokens - pl.col("prompt_end"),
    )


def _estimated(vocabulary: int) -> pl.DataFrame:
    """Estimate the tokens of every full view from the characters of its texts: columns as of `_counted`."""
    per_token = _CHARACTERS_PER_TOKEN / _vocabulary_factor(vocabulary)
    documents = (
        tables.frame(tables.CHUNKS, ["document_id", "title", "text"])
        .group_by("document_id")
        .agg(characters=_characters(pl.col("title").first()) + _characters(pl.col("text")).sum())
    )
    columns = ["example_id", "split", "question", "options", "answers", "document_ids"]
    examples = tables.frame(tables.EXAMPLES, columns)
    contexts = (
        examples.explode("document_ids")
        .join(documents, left_on="document_ids", right_on="document_id")
        .group_by("example_id")
        .agg(context=pl.col("characters").sum())
    )
    options = _characters(pl.col("options").list.join(""))
    answer = _characters(pl.col("answers").list.first()).fill_null(0)  # questions without a label have none
    has_options = pl.col("options").list.len() > 0
    return (
        examples.join(contexts, on="example_id")
        .with_columns(
            question=((_characters(pl.col("question")) + options) / per_token).round() + 8,
            labels=pl.when(has_options).then(2).otherwise((answer / per_token).round() + 2),
        )
        .with_columns(tokens=(pl.col("context") / per_token).round() + pl.col("question") + pl.col("labels") + 16)
    )


def _characters(text: pl.Expr) -> pl.Expr:
    """Count the characters of a text, or of the English text that makes as many tokens."""
    letters = text.str.count_matches(rf"[{UNSPACED}\p{{Hangul}}]")
    return text.str.len_chars() + letters * (_TOKENS_PER_LETTER * _CHARACTERS_PER_TOKEN - 1)


def _rows(views: pl.DataFrame, split: str) -> Rows:
    """Summarize the views of a split, with columns as of `_counted`."""
    views = views.filter(split=split)
    if not len(views):
        return NO_ROWS
    tokens, question, labels = views.select("tokens", "question", "labels").mean().row(0)
    longest = int(views.select("tokens").max().item())
    return Rows(len(views), views["document_ids"].n_unique(), tokens, longest, question, labels)


def _from_benchmark(settings: Settings, splits: Sequence[str], vocabulary: int) -> tuple[dict[str, Rows], str]:
    """Take known sizes, and say in words that they are known or guessed."""
    data = settings.data
    if isinstance(data, BiosData):
        surface = data.surface_questions * len(data.surface_name_sharing_rates)
        sizes = {
            "train": (data.train_questions, data.train_documents),
            "dev": (data.dev_questions, data.dev_documents),
            "test": (data.test_questions, data.test_documents),
            "unlabelled": (data.unlabelled_questions, data.train_documents),
            "surface": (surface, data.surface_documents),
        }
        found = {split: generated(*sizes[split], vocabulary) for split in splits}
    elif isinstance(data, OfficialData):
        found = {split: known(data.kind, split, vocabulary, data.max_questions or sys.maxsize) for split in splits}
    else:
        guess = {**dict.fromkeys(splits, NO_ROWS), "train": _GUESS, settings.eval.split: _GUESS}
        return guess, f"a guess (data.kind {data.kind} has no known size)"
    return found, f"the known size of {data.kind}"


def known(benchmark: str, split: str, vocabulary: int, max_questions: int = sys.maxsize) -> Rows:
    """Sizes of a split of a benchmark in KNOWN; zeros where its official files have no such split."""
    splits, (mean, longest, question, labels) = KNOWN[benchmark]
    if split not in splits:
        return NO_ROWS
    num, num_contexts = (min(count, max_questions) for count in splits[split])
    factor = _vocabulary_factor(vocabulary)
    return Rows(num, num_contexts, mean * factor, round(longest * factor), question * factor, labels)


def generated(num_questions: int, documents: Sequence[int], vocabulary: int) -> Rows:
    """Sizes of a split of generated biographies, where every question is asked once for each number of documents."""
    num = num_questions * len(documents)
    if not num:
        return NO_ROWS
    tokens = _BIOS_TOKENS * (_vocabulary_factor(vocabulary) / _SMALL_VOCABULARY_FACTOR)
    mean, longest = tokens * sum(documents) / len(documents), round(1.1 * tokens * max(documents))
    return Rows(num, num, mean, longest, _BIOS_QUESTION, _BIOS_LABELS)


def _vocabulary_factor(vocabulary: int) -> float:
    """Tokens of a text over those that a vocabulary of 32,000 makes of it."""
    return _SMALL_VOCABULARY_FACTOR if vocabulary < _SMALL_VOCABULARY else 1.0


def _chunks(settings: Settings, has_texts: bool, train: Rows, asked: Rows, chunk_tokens: float) -> tuple[int, float]:
    """Number of chunks and their mean word pieces; at most so many, where there are no fresh chunks to count."""
    data = settings.data
    if has_texts:
        characters = tables.frame(tables.CHUNKS, ["text"]).select(_characters(pl.col("text")))
        return len(characters), characters.sum().item() / _WORDPIECE_CHARACTERS / max(len(characters), 1)
    if isinstance(data, BiosData):
        asked_once = data.train_questions + data.unlabelled_questions + data.dev_questions + data.test_questions
        words = min(settings.chunk.words, _BIOS_WORDS)
        return round(_BIOS_DOCUMENTS * asked_once), words * WORDPIECES_PER_WORD
    total = sum(rows.num_contexts * rows.mean_tokens for rows in (train, asked))
    return round(total / chunk_tokens), settings.chunk.words * WORDPIECES_PER_WORD
