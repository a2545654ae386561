"""Chunks: offsets are exact whatever the text, and borders are taken where a reader would take them."""

import json
import time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.common.text import word_spans
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
        # Chinese is counted by letters, and cut behind its full stops; a paragraph as ever.
        ("灯塔很高。桥很长。", 6, ["灯塔很高。", "桥很长。"]),
        ("他说「高。」桥很长。", 5, ["他说「高。」", "桥很长。"]),
        ("灯塔高。\n\n桥长。树多。", 6, ["灯塔高。\n\n", "桥长。树多。"]),
        ("灯塔很高\uff0c桥很长", 3, ["灯塔很", "高\uff0c桥很", "长"]),
        # Thai has no full stop: the blank is the better place, if it leaves the chunk half full.
        ("กขค งจฉชซ", 5, ["กขค ", "งจฉชซ"]),
        ("ก ขคงจฉชซ", 5, ["ก ขคงจ", "ฉชซ"]),
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
ODD = [
    "中",
    "文。",
    "「",
    "かな",
    "ไทย",
    "한글",
    "क्षि",
    "\u0301",
    "\u200b",
    "\U0001f44d\U0001f3fd",
    "<p>",
    "QUJD",
    "((",
    "שלום",
]
odd_texts = st.lists(st.sampled_from(ODD + SEPARATORS)).map("".join) | st.text()


@settings(deadline=None)
@given(texts | odd_texts, st.integers(1, 6))
def test_chunks_cover_the_text_and_hold_whole_words_and_no_more_than_allowed(text, max_words):
    spans = chunking.split(text, max_words)
    assert [0, *(end for _, end in spans)] == [*(start for start, _ in spans), len(text)]
    starts = [start for start, _ in word_spans(text)]
    assert {start for start, _ in spans[1:]} <= set(starts)
    if text.strip():
        counts = [sum(start <= word < end for word in starts) for start, end in spans]
        assert 1 <= min(counts) and max(counts) <= max_words


@pytest.mark.parametrize(
    "text",
    [
        "第0年\uff0c镇上的人修了一座桥\uff0c桥边种了树。" * 300,
        "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。" * 200,
        "ทุกคนเกิดมาอิสระและเสมอภาคกันในศักดิ์ศรีและสิทธิ" * 200,
        "모든인간은태어날때부터자유로우며그존엄과권리에있어동등하다" * 200,
        "<div class='a'><span>text</span></div>" * 300,
        "<tr class='a'><td>1</td></tr>\n" * 300,
        "2019-01-01,12.5,red,blue\n" * 300,
        "QUJDREVGR0g+" * 2000,
        "\n".join(["QUJDREVGR0g+" * 6] * 300),
        "\U0001f468\u200d\U0001f469\u200d\U0001f467" * 3000,
        "e\u0301" * 9000,
        "a" + "\u0301" * 50_000,
        "!?" * 9000,
        "\u200b" * 20_000,
    ],
    ids=[
        "Chinese", "Japanese", "Thai", "Korean", "HTML", "HTML in lines", "table", "base64", "base64 in lines", "emoji",
        "marks", "heap of marks", "punctuation", "invisible",
    ],
)  # fmt: skip
def test_text_without_blanks_makes_chunks_of_a_sensible_size(text):
    found = pieces(text, 100)
    assert "".join(found) == text
    assert len(found) > 3
    assert max(map(len, found)) <= 5000  # the longest English words would make as much
    assert max(len(regex.findall(r"\X", piece)) for piece in found) <= 1500  # 100 English words have some 600 letters


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
    assert all(len(word_spans(text[begin:end])) <= 200 for begin, end in spans)


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
