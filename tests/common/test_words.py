"""Words, search terms and answers in scripts with and without blanks."""

import re
import unicodedata

import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.common import text

FAMILY, FLAG, THUMB = "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1f5\U0001f1f1", "\U0001f44d\U0001f3fd"


def words(given_text):
    return [given_text[start:end] for start, end in text.word_spans(given_text)]


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("", []),
        (" \u3000\n", []),
        ("One  two-three, (four).", ["One", "two-three,", "(four)."]),
        # Chinese: letters, each with the signs around it; names and numbers of other scripts stay whole.
        ("灯塔「高」。", ["灯", "塔", "「高」。"]),
        ("用Python3.12的list.add()", ["用", "Python3.12", "的", "list.add", "()"]),
        ("共1,000元\uff0c", ["共", "1,000", "元\uff0c"]),
        ("東京 タワー", ["東", "京", "タ", "ワ", "ー"]),
        ("สวัสดี ครับ", ["ส", "วั", "ส", "ดี", "ค", "รั", "บ"]),
        ("漢\ufe00字か\u3099", ["漢\ufe00", "字", "か\u3099"]),
        # Korean puts blanks between words, and only a long row of letters is cut.
        ("서울은 수도이다.", ["서울은", "수도이다."]),
        ("대한민국의수도는서울이다.", ["대한민국의수도는서울이다."]),
        ("대한민국의수도는서울이었다.", [*"대한민국의수도는서울이었", "다."]),
        *(
            (unicodedata.normalize("NFD", korean), list(map(unicodedata.normalize, ["NFD"] * len(parts), parts)))
            for korean, parts in (("대한민국의수도는", ["대한민국의수도는"]), ("한" * 13, ["한"] * 13))
        ),
        # Emoji are cut only in a long run, and never inside.
        ("well \U0001f600\U0001f600\U0001f600", ["well", "\U0001f600\U0001f600\U0001f600"]),
        ((FAMILY + FLAG + THUMB) * 6, [FAMILY + FLAG, THUMB] * 6),
        # Right to left, with blanks, and with a mark of direction.
        ("שלום \u200fبيت", ["שלום", "\u200fبيت"]),
        ("state-of-the-art, U.S.A., 3.14", ["state-of-the-art,", "U.S.A.,", "3.14"]),
        ("<tr><td>1</td><td>22</td></tr>", ["<tr>", "<td>", "1", "</", "td>", "<td>", "22", "</", "td>", "</", "tr>"]),
        ("x" * 50, ["x" * 50]),
        ("x" * 51, ["x" * 10] * 5 + ["x"]),
        ("e\u0301" * 26, ["e\u0301" * 10] * 2 + ["e\u0301" * 6]),
        ("." * 51, ["." * 10] * 5 + ["."]),
        ("\u200b" * 51, ["\u200b" * 10] * 5 + ["\u200b"]),
        # A letter under heaps of marks is cut all the same.
        ("a" + "\u0301" * 119, ["a" + "\u0301" * 49, "\u0301" * 50, "\u0301" * 20]),
    ],
)  # fmt: skip
def test_words_of(given_text, expected):
    assert words(given_text) == expected


PIECES = [
    "word", "x" * 30, "Zażółć", "中", "文。", "「", "ひらがな", "カー", "ไทยคำ", "서울", "한" * 14, "क्षि", "e\u0301",
    "\u0301", "שלום", "\u200f", "\u200b", "\u200d", "\ufeff", FAMILY, FLAG, "<p>", "</p>", "QUJD", "+/=", "...", "((",
    "\uff0c", "1.5", " ", "\n", "\n\n", "\u3000",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PIECES), max_size=60).map("".join) | st.text()


@settings(deadline=None)
@given(TEXTS)
def test_words_cover_all_that_is_no_blank_in_order_and_none_is_long(given_text):
    found = text.word_spans(given_text)
    ends = [0, *(end for _, end in found)]
    assert all(start < end for start, end in found)
    assert all(given_text[end:start].strip() == "" for end, (start, _) in zip(ends, found, strict=False))
    assert given_text[ends[-1] :].strip() == ""
    assert not any(re.search(r"\s", given_text[start:end]) for start, end in found)
    assert all(end - start <= text.LONGEST_WORD for start, end in found)


@settings(deadline=None)
@given(TEXTS)
@example(("0" + "\u0300" * 13) * 8)
def test_no_letter_is_cut_from_its_marks(given_text):
    clusters = list(regex.finditer(r"\X", given_text))
    borders = {0, *(cluster.end() for cluster in clusters)}
    small = {place for place in borders} | {
        place for cluster in clusters if len(cluster[0]) > 25 for place in range(cluster.start(), cluster.end())
    }
    for start, end in text.word_spans(given_text):
        # A blank with a mark on it is one cluster too, but blanks part words.
        assert {start, end} <= small or given_text[start - 1 : start].isspace()


LATIN = st.text(st.characters(max_codepoint=0x24F, categories=["L", "N"]), min_size=1, max_size=8)


@given(st.lists(st.lists(LATIN | st.just("'"), min_size=1, max_size=6).map("-".join)))
def test_words_of_latin_script_are_those_between_blanks(parts):
    assert words(" ".join(parts)) == " ".join(parts).split()


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("The Cat_1 sat; O'Neil's ½ café.", ["the", "cat_1", "sat", "o", "neil", "s", "½", "café"]),
        ("cafe\u0301 हिन्दी", ["café", "हिन्दी"]),
        ("东城的", ["东", "城", "东城", "的", "城的"]),
        ("东\uff0c城 的", ["东", "城", "的"]),
        ("在1900年", ["在", "1900", "年"]),
        ("\uff21\uff22\uff11 ｶﾞ", ["ab1", "ガ"]),
        ("서울은", ["서", "울", "서울", "은", "울은"]),
        ("ดี", ["ดี"]),
        ("!?", []),
    ],
)
def test_search_terms(given_text, expected):
    assert text.terms(given_text) == expected


@given(st.text(st.characters(max_codepoint=0x7F) | st.sampled_from("éüßñÅæøł")))
def test_search_terms_of_latin_script_are_lower_cased_runs(given_text):
    assert text.terms(given_text) == re.findall(r"\w+", given_text.lower())


def test_a_letter_of_a_script_without_blanks_is_told_from_a_word():
    assert [text.is_letter(term) for term in ("东", "か\u3099", "서", "东城", "a", "1", "")] == [True] * 3 + [False] * 4


@pytest.mark.parametrize(
    ("held", "answer", "expected"),
    [
        ("张娜在1900年成为看守人。", "1900年", True),
        ("张娜在1900年成为看守人。", "900年", False),  # a part of a number is no match
        ("张娜在1900年成为看守人。", "张娜", True),
        ("张娜在1900年成为看守人。", "娜张", False),
        ("第１５年", "15年", True),
        ("iPhone手机", "iPhone", True),
        ("서울은 수도이다", "서울", True),
        ("선은", "서", False),  # the letter is taken whole, not by its parts
        ("บ้านอยู่กรุงเทพ", "กรุงเทพ", True),
        ("か\u3099く", "が", True),
    ],
)
def test_answers_stand_inside_of_text_without_blanks(held, answer, expected):
    assert text.has_answer(held, answer) is expected
    places = text.find_answer(held, answer)
    assert bool(places) is expected
    for start, end in places:
        assert unicodedata.normalize("NFKC", held[start:end]) == unicodedata.normalize("NFKC", answer)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("「在1900年」\uff0c灯塔。", "在 1900 年 灯 塔"),
        ("The Lighthouse 灯 塔", "lighthouse 灯 塔"),
        ("卡尔·马克思", "卡 尔 马 克 思"),
    ],
)
def test_answers_without_blanks_are_compared_by_letters_without_signs(given_text, expected):
    assert text.normalize_unspaced(given_text) == expected
