"""Words of texts in any script, whether a text holds an answer, and SQuAD's normalisation of answers.

Most scripts put blanks between words. In those that do not (UNSPACED), each letter counts as a word, as word processors
count Chinese: a letter is what a reader sees as one, a base with its marks (a grapheme cluster of UAX #29). Korean puts
blanks between words, but its endings hang on them, so that answers and questions are matched by letters there too.
"""

import hashlib
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache

import regex

UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\u30fc\uff70\p{Bopomofo}\p{Yi}\p{Tangut}\p{Nushu}\p{Thai}\p{Lao}\p{Khmer}"
    r"\p{Myanmar}\p{Tibetan}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Javanese}\p{Balinese}"
)
"""Scripts that put no blanks between words, as part of a class in a regular expression (of `regex` and of polars)."""
LONGEST_WORD = 50  # characters; a run without a blank that is longer is no word: a link, base64, HTML, Korean unspaced
_PIECE = 10  # letters and digits of such a run that count as one word

_LETTER = rf"[[{UNSPACED}\p{{Hangul}}]--[\p{{P}}\p{{M}}]]"

_RUN = re.compile(r"\S+")
_CLUSTER = regex.compile(r"\X")
_MADE_OF_WORDS = re.compile("U|(?:HJ*){13}")
_MANY_PARTS = re.compile(r"(?:\w++[^\w\s]++){6}\w")
_WORD_OF_RUN = re.compile(f"[(]{{0,4}}(?:[UHE]|(?:[.]?[WJ]){{1,{_PIECE}}})?[.)]{{0,{_PIECE}}}")
_TERM_RUN = regex.compile(r"[\w\p{N}]+")
_TERM = regex.compile(rf"(?V1)((?={_LETTER})\X)|(?:(?!{_LETTER}).)+")
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")
_TOKEN_OR_LETTER = regex.compile(rf"(?V1)(?={_LETTER})\X|[[\p{{L}}\p{{N}}\p{{M}}]--{_LETTER}]+|[^\p{{Z}}\p{{C}}]")
_WIDE = re.compile(r"[\uff01-\uffee]+")


class _Classes(dict[int, str]):
    """The class of each character that was met so far, for str.translate: the properties take microseconds each."""

    OF = (
        ("U", regex.compile(rf"(?V1)[[{UNSPACED}]--[\p{{P}}\p{{M}}]]")),
        ("J", regex.compile(r"[\u1160-\u11ff]")),  # vowels and endings of Korean letters, where they are decomposed
        ("H", regex.compile(rf"(?V1){_LETTER}")),
        ("E", regex.compile(r"(?V1)[\p{Extended_Pictographic}--\p{P}]")),
        ("W", regex.compile(r"[\w\p{M}]")),
        ("(", regex.compile(r"[\p{Ps}\p{Pi}<]")),
        (".", regex.compile("[.,:'\u2019]")),  # inside of numbers, names and words
    )

    def __missing__(self, code: int) -> str:
        self[code] = next((name for name, characters in self.OF if characters.match(chr(code))), ")")
        return self[code]


_CLASSES = _Classes()


def word_spans(text: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each word: of each run between blanks, cut where it is made of several words.

    A run is cut when it has a letter of UNSPACED, 13 Korean letters in a row, seven parts between punctuation (HTML,
    JSON, a line of a table), or more than LONGEST_WORD characters: into such letters, emoji, and pieces of at most ten
    other letters and digits, each with the punctuation around it. Every character that is no blank lies in one word. No
    letter is cut from its marks, up to LONGEST_WORD characters.
    """
    return list(_word_spans(text))


def _word_spans(text: str) -> Iterator[tuple[int, int]]:
    for run in _RUN.finditer(text):
        start, end = run.span()
        one = end - start <= LONGEST_WORD and not _MANY_PARTS.search(run[0])
        if one and (run[0].isascii() or not _MADE_OF_WORDS.search(run[0].translate(_CLASSES))):
            yield start, end
            continue
        clusters = _CLUSTER.findall(run[0])
        for word in _WORD_OF_RUN.finditer("".join(cluster[0] for cluster in clusters).translate(_CLASSES)):
            end = start
            for cluster in clusters[word.start() : word.end()]:
                if start < end and end + len(cluster) - start > LONGEST_WORD:  # several letters with many marks
                    yield start, end
                    start = end
                end += len(cluster)
            # One word, but for a letter with heaps of marks.
            yield from ((place, min(place + LONGEST_WORD, end)) for place in range(start, end, LONGEST_WORD))
            start = end


def terms(text: str) -> list[str]:
    """The terms by which texts are searched: lower-cased runs of letters and digits, with their marks.

    Each letter of UNSPACED and of Korean is a term, and each two in a row are one, as in Lucene's CJKBigramFilter with
    outputUnigrams.
    """
    found: list[str] = []
    for run in _TERM_RUN.findall(unicodedata.normalize("NFC", _narrow(text)).lower()):
        if not _has_letter(run):
            found.append(run)
            continue
        before = ""
        for term in _TERM.finditer(run):
            found.append(term[0])
            if before and term[1]:
                found.append(before + term[0])
            before = term[1] or ""
    return found


def is_letter(term: str) -> bool:
    """Whether a term is one letter of a script whose words are not known."""
    found = _TERM.fullmatch(term)
    return found is not None and found[1] is not None


def _has_letter(text: str) -> bool:
    classes = "" if text.isascii() else text.translate(_CLASSES)
    return "U" in classes or "H" in classes


def _narrow(text: str) -> str:
    """Write full-width letters, digits and signs, and half-width Katakana, as their usual forms."""
    return _WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), text)


@lru_cache(maxsize=16_384)
def tokens(text: str) -> str:
    """The text's tokens between blanks, with a blank at both ends, so that `in` compares whole tokens."""
    token = _TOKEN_OR_LETTER if _has_letter(text) else _TOKEN
    return " " + " ".join(token.findall(unicodedata.normalize("NFD", _narrow(text)).lower())) + " "


def has_answer(text: str, answer: str) -> bool:
    """The answer's tokens stand in a row in the text; an answer without tokens is nowhere."""
    wanted, longest = _wanted(answer)
    # In lower case, a text of ASCII holds each of its tokens, so that most texts need not be split.
    if not longest or (text.isascii() and longest not in text.lower()):
        return False
    return wanted in tokens(text)


@lru_cache(maxsize=4096)
def _wanted(answer: str) -> tuple[str, str]:
    """The answer's tokens as `tokens` gives them, and the longest of them; empty: there is none."""
    wanted = tokens(answer)
    return wanted, max(wanted.split(), key=len, default="")


def find_answer(text: str, answer: str) -> list[tuple[int, int]]:
    """Characters [start, end) of each place where the answer stands, by the rule of `has_answer`; none overlap."""
    wanted = tokens(answer).split()
    # Decomposed character by character, to know where each piece comes from.
    pieces = [
        (piece, place) for place, letter in enumerate(text) for piece in unicodedata.normalize("NFD", _narrow(letter))
    ]
    found = [
        (tokens(match[0]).strip(), pieces[match.start()][1], pieces[match.end() - 1][1] + 1)
        for match in (_TOKEN_OR_LETTER if _has_letter(text) else _TOKEN).finditer("".join(piece for piece, _ in pieces))
    ]
    places: list[tuple[int, int]] = []
    index = 0
    while wanted and index + len(wanted) <= len(found):
        if [token for token, _, _ in found[index : index + len(wanted)]] == wanted:
            places.append((found[index][1], found[index + len(wanted) - 1][2]))
            index += len(wanted)
        else:
            index += 1
    return places


_PUNCTUATION = regex.compile(r"\p{P}+")
_LETTER_ALONE = regex.compile(rf"(?V1)(?=[[{UNSPACED}]--[\p{{P}}\p{{M}}]])\X")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = r"\b(a|an|the)\b"
_ARTICLES_RE = re.compile(_ARTICLES)
# A combining mark is part of the word for `regex`, a word border for `re`: "an" + U+0303 loses its "an" with `re` only.
_ARTICLES_REGEX = regex.compile(_ARTICLES)


def normalize(text: str) -> str:
    """The text as SQuAD, Qasper, HotpotQA and LongBench compare it."""
    return " ".join(_ARTICLES_RE.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def normalize_marks(text: str) -> str:
    """The text as Lost in the Middle compares it."""
    return " ".join(_ARTICLES_REGEX.sub(" ", text.lower().translate(_WITHOUT_PUNCTUATION)).split())


def normalize_unspaced(text: str) -> str:
    """The text as answers in UNSPACED scripts are compared: each letter is a word, and all punctuation goes.

    This is MLQA's rule for Chinese (mlqa_evaluation_v1.py of facebookresearch/MLQA), for all such scripts.
    """
    return normalize(_LETTER_ALONE.sub(r" \g<0> ", _PUNCTUATION.sub("", _narrow(text))))


def is_unspaced(text: str) -> bool:
    """Whether a letter of UNSPACED stands in the text."""
    return not text.isascii() and "U" in text.translate(_CLASSES)


def bag_f1(found: Sequence[str], expected: Sequence[str]) -> float:
    """F1 of two bags of words; 0 when either is empty, also when both are."""
    num_shared = (Counter(found) & Counter(expected)).total()
    if num_shared == 0:
        return 0.0
    precision, recall = num_shared / len(found), num_shared / len(expected)
    return 2 * precision * recall / (precision + recall)


def text_key(text: str) -> bytes:
    """Digest a text; texts that differ only in case and blanks have one key, whatever their ids and titles are."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=8).digest()


def percent(share: float | None) -> str:
    """Write a share in percent; `unknown` for None."""
    return "unknown" if share is None else f"{share:.1%}"
