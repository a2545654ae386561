"""ROUGE as SQuALITY's authors compute it: F-measures of stems, each kind with its own best reference."""

import sys
from collections import Counter
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import rouge
from pipeline.runtime.errors import ConfigError

NAMES = ("rouge_1", "rouge_2", "rouge_l")


def scores(prediction, *references):
    found = rouge.rouge(prediction, references)
    assert tuple(found) == NAMES
    return tuple(found.values())


@pytest.mark.parametrize(
    ("prediction", "reference", "expected"),
    [
        ("the cat sat on the mat", "the cat sat on the mat", (1.0, 1.0, 1.0)),
        # 1 of 1 found, 1 of 3 wanted
        ("one", "one two three", (0.5, 0.0, 0.5)),
        # the same words the other way round: one of them in order
        ("a b", "b a", (1.0, 0.0, 0.5)),
        # words are counted: "the" twice of three, 4 of 5 and 4 of 6
        ("the the the cat sat", "the cat sat on the mat", (8 / 11, 4 / 9, 6 / 11)),
        # stems, from four letters on: "cats" is "cat", "has" is not "ha"
        ("Cats, running!", "a cat runs", (0.8, 2 / 3, 0.8)),
        ("has", "ha", (0.0, 0.0, 0.0)),
        ("hyphen-ated", "hyphen ated", (1.0, 1.0, 1.0)),
        ("кот", "кот", (0.0, 0.0, 0.0)),
    ],
)
def test_literal_scores(prediction, reference, expected):
    assert scores(prediction, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("empty", ["", " \n", "...", "—"])
def test_nothing_said_scores_0_and_so_does_everything_against_nothing(empty):
    assert scores(empty, "a cat") == scores("a cat", empty) == scores(empty, empty) == (0.0, 0.0, 0.0)


def test_each_kind_takes_its_own_best_reference():
    # The first reference has all words, the second their order.
    one, two = "d c b a", "a b x y"
    assert scores("a b c d", one, two) == (scores("a b c d", one)[0], *scores("a b c d", two)[1:])
    assert scores("a b c d", one, two) == pytest.approx((1.0, 1 / 3, 0.5))


# Words of up to three letters are their own stems.
WORDS = st.lists(st.sampled_from(["a", "of", "cat", "sat", "7"]), max_size=12)


def slow(found, wanted):
    """All three, by their definitions."""

    @cache
    def common(i, j):
        if i == len(found) or j == len(wanted):
            return 0
        if found[i] == wanted[j]:
            return 1 + common(i + 1, j + 1)
        return max(common(i + 1, j), common(i, j + 1))

    def f(shared, num_found, num_wanted):
        return 2 * shared / (num_found + num_wanted) if shared else 0.0

    def grams(words, n):
        return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))

    overlaps = [(grams(found, n), grams(wanted, n)) for n in (1, 2)]
    return (
        *(f((left & right).total(), left.total(), right.total()) for left, right in overlaps),
        f(common(0, 0), len(found), len(wanted)),
    )


@given(WORDS, WORDS)
def test_scores_agree_with_the_definitions(found, wanted):
    assert scores(" ".join(found), " ".join(wanted)) == pytest.approx(slow(found, wanted), abs=1e-12)


@given(WORDS, st.lists(WORDS, min_size=1, max_size=4))
def test_of_many_references_the_best_counts_in_any_order(found, many):
    prediction, references = " ".join(found), [" ".join(words) for words in many]
    alone = [scores(prediction, reference) for reference in references]
    assert scores(prediction, *references) == scores(prediction, *references[::-1])
    assert scores(prediction, *references) == tuple(map(max, zip(*alone, strict=True)))


def test_without_rouge_score_one_line_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    rouge._scorer.cache_clear()
    with pytest.raises(ConfigError, match=r"summaries need rouge-score, .*focused-learning\[squality\]"):
        rouge.rouge("a summary that no other test has", ["another one"])
