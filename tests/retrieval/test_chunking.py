"""Chunks: offsets are exact whatever the text, and borders are taken where a reader would take them."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.retrieval import chunking


def pieces(text, max_words):
    return [text[start:end] for start, end in chunking.split(text, max_words)]


@pytest.mark.parametrize(
    ("text", "max_words", "expected"),
    [
        ("", 3, []),
        ("one", 3, ["one"]),
        ("One two. Three four.", 4, ["One two. Three four."]),
        ("One two. Three four.", 3, ["One two. ", "Three four."]),
        # A sentence that would fit into a chunk of its own is never cut.
        ("One. Two three four five. Six.", 4, ["One. ", "Two three four five. ", "Six."]),
        # A longer one is cut at words.
        ("One two three four five. Six.", 2, ["One two ", "three four ", "five. Six."]),
        # The paragraph border is taken when it leaves the chunk half full ...
        ("A b.\n\nC d. E f.", 4, ["A b.\n\n", "C d. E f."]),
        ("A b.\n \nC. D e f. G.", 5, ["A b.\n \nC. ", "D e f. G."]),
        # ... and a single line end is none.
        ("A b\nC d. E f.", 5, ["A b\nC d. ", "E f."]),
        # White space in front stays with the first chunk, at the end with the last.
        ("  One. \n Two.  ", 1, ["  One. \n ", "Two.  "]),
        ('He said "Stop!" (Twice.) Then left.', 4, ['He said "Stop!" (Twice.) ', "Then left."]),
        ('He said "Stop!" (Twice.) Then left.', 3, ['He said "Stop!" ', "(Twice.) Then left."]),
        ("एक दो। तीन चार।", 3, ["एक दो। ", "तीन चार।"]),
        ("He paid 3.50 there. Then he left.", 5, ["He paid 3.50 there. ", "Then he left."]),
        (" \n\t", 3, [" \n\t"]),
    ],
)
def test_borders(text, max_words, expected):
    assert pieces(text, max_words) == expected


def test_offsets_count_characters_not_bytes():
    assert chunking.split("Żółć 🦊. Ende.", 2) == [(0, 8), (8, 13)]


@settings(deadline=None)
@given(st.text(), st.integers(1, 6))
def test_joining_gives_any_text_back(text, max_words):
    assert "".join(pieces(text, max_words)) == text


SEPARATORS = [" ", "\n", "\n\n", "\r\n\r\n", "\u2029", "\u00a0", " \t "]
WORDS = ["a", "b.", "c?", 'd!"', "é。", ".", "“", "x" * 50]
texts = st.lists(st.sampled_from(WORDS + SEPARATORS)).map("".join)


@settings(deadline=None)
@given(texts, st.integers(1, 6))
def test_chunks_hold_words_and_no_more_than_allowed(text, max_words):
    counts = [len(piece.split()) for piece in pieces(text, max_words)]
    if text.strip():
        assert min(counts) >= 1
        assert max(counts) <= max_words
        assert sum(counts) == len(text.split())


@settings(deadline=None)
@given(texts, st.integers(1, 6))
def test_no_word_is_cut(text, max_words):
    assert [word for piece in pieces(text, max_words) for word in piece.split()] == text.split()


@settings(deadline=None)
@given(st.text(st.sampled_from('ab.?")  \n')), st.integers(1, 6))
def test_agrees_with_the_obvious_slow_splitter(text, max_words):
    assert pieces(text, max_words) == slow_split(text, max_words)


def slow_split(text, max_words):
    if len(text.split()) <= max_words:
        return [text] if text else []
    starts = [i for i in range(len(text)) if not text[i].isspace() and (i == 0 or text[i - 1].isspace())]
    word_ends = [start + len(text[start:].split()[0]) for start in starts]
    paragraphs, sentences = [], []
    for num_words in range(1, max_words + 1):
        end, next_start = word_ends[num_words - 1], starts[num_words]
        if text[end:next_start].count("\n") > 1:
            paragraphs.append(num_words)
        elif text[:end].rstrip('")').endswith((".", "?")) and not text[:end].rstrip('")').endswith((" ", "\n")):
            sentences.append(num_words)
    if paragraphs and 2 * paragraphs[-1] >= max_words:
        num_words = paragraphs[-1]
    else:
        num_words = max([*paragraphs, *sentences], default=max_words)
    return [text[: starts[num_words]], *slow_split(text[starts[num_words] :], max_words)]


@pytest.mark.parametrize(
    "text",
    [
        "word " * 200_000,
        "x" * 1_000_000,
        "." * 1_000_000,
        "\n" * 1_000_000 + "end",
        "a.\n\n" * 250_000,
        "<p>hi</p>" * 9000,
    ],
    ids=["one sentence", "one word", "dots", "line ends", "short paragraphs", "only HTML"],
)
def test_a_megabyte_takes_seconds(text):
    start = time.perf_counter()
    spans = chunking.split(text, 200)
    assert time.perf_counter() - start < 10
    assert "".join(text[begin:end] for begin, end in spans) == text
    assert all(len(text[begin:end].split()) <= 200 for begin, end in spans)


def test_real_stories_end_nearly_every_chunk_at_a_sentence(shared):
    with (shared / "data/text/squality_v1-3_dev.jsonl").open(encoding="utf-8") as file:
        stories = [json.loads(line)["document"] for line in file]
    found = [piece for story in stories for piece in pieces(story, 200)]
    assert "".join(found) == "".join(stories)
    counts = [len(piece.split()) for piece in found]
    assert max(counts) <= 200
    assert sum(counts) / len(counts) > 140
    at_sentence = sum(piece.rstrip().endswith((".", "!", "?", '"', "”", ")", "'")) for piece in found)
    assert at_sentence > 0.97 * len(found)
