"""QuALITY's accuracy against a slow count, and options named by generated answers."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.multiple_choice import parse_option, quality_accuracy

OPTIONS = ["A dog barked.", "He left with Dr. C.", "Some text here", "The plan B failed"]
NONE = -1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("B", 1), ("b", 1), ("a", 0), ("(B)", 1), ("(b)", 1), ("[D]", 3), ("B.", 1), ("**B**", 1), ('"B"', 1),
        (" B\n", 1),
        ("B) some text", 1), ("b) some text", 1), ("B - text", 1), ("B because he left", 1), ("\ufeffB", 1),
        ("Answer: B", 1), ("answer: b", 1), ("Answer:\n\nB", 1), ("The answer is (B)", 1), ("The answer is B.", 1),
        ("The correct option would be (C).", 2), ("My final answer is D because of the plan", 3),
        ("I choose option C", 2), ("Option A is right", 0), ("I think it is B.", 1), ("The answer is A.", 0),
        ("A", 0), ("A.", 0), ("A)", 0), ("A: it barked", 0), ("A - it barked", 0), ("A\nIt barked", 0),
    ],
)  # fmt: skip
def test_a_letter_names_its_option(text, expected):
    assert parse_option(text, OPTIONS) == expected


@pytest.mark.parametrize(
    "text",
    [
        "", " \n", ".", "E", "(E)", "5", "none of them", "A cat ran", "A 'cat' ran", "The answer is a dog", "I say so",
        "Answer: A cat", "B or C", "A or B", "b or c", "(A) and (B)", "A, B", "A/B", "b, c", "B. Or C.",
        "Answer: B or C",
        "Both A and B", "The answer is B, not C", "The answer is not B", "(A) x (B) y (C) z (D) w", "B) Some text here",
        "D-Day", "A-list", "C++", "C#", "U.S.", "D'Artagnan", "vitamin c", "B\u0303", "\uff22", "\u0412", "\u0130",
        "Bob", "_B_",
    ],
)  # fmt: skip
def test_a_text_that_names_no_option_or_two_is_refused(text):
    assert parse_option(text, OPTIONS) == NONE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a dog barked", 0),
        ("  The dog BARKED! ", 0),  # articles, case and punctuation do not count
        ("He left with Dr. C", 1),  # the letter in it says nothing
        ("B) He left with Dr. C.", 1),
        ("C.) Some text here", 2),
        ("the plan b failed", 3),
        ("The answer is D: the plan B failed.", 3),
        ("Some text", NONE),
    ],
)
def test_the_text_of_an_option_names_it(text, expected):
    assert parse_option(text, OPTIONS) == expected


def test_a_text_of_two_options_or_a_letter_that_is_the_text_of_another_option_is_refused():
    assert parse_option("red", ["Red", "red.", "blue", "green"]) == NONE
    assert parse_option("blue", ["Red", "red.", "blue", "green"]) == 2
    assert parse_option("B", ["B", "C", "D", "E"]) == NONE
    assert parse_option("A. Smith did it", ["x", "y", "A. Smith did it", "z"]) == 2
    assert parse_option("", ["", "the", "x", "y"]) == NONE


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("form", ["{}", "({})", "{}.", "{}) {text}", "Answer: {}", "The answer is ({}).", "{}: {text}"])
def test_every_form_names_every_option(form, place):
    assert parse_option(form.format("ABCD"[place], text=OPTIONS[place]), OPTIONS) == place


@given(st.text() | st.text("ABCDEabcd()., \nor-'Answeri:\u0303\u200b"), st.lists(st.text(), max_size=5))
def test_any_text_over_any_options_names_one_of_them_or_none(text, options):
    assert -1 <= parse_option(text, options) < len(options)


@given(st.sampled_from("ABCD"), st.sampled_from("ABCD"), st.sampled_from([" or ", ", ", " and ", "/", ") or ", ". "]))
def test_two_letters_name_an_option_only_if_they_are_the_same(one, other, between):
    found = parse_option(f"({one}){between}({other})", OPTIONS)
    assert found == ("ABCD".index(one) if one == other else NONE)


@pytest.mark.parametrize(
    "text",
    [
        "B " * 50_000, "a" * 100_000, "(" * 100_000, "(B)" * 33_000, "option " * 14_000, "A or " * 20_000,
        "x A " * 25_000,
        "B" + " " * 100_000 + "x", "\u0303" * 100_000, "answer the " * 9_000 + "B", "answer" + "." * 100_000 + "B",
        "A\n" * 50_000, "A  " * 33_000,
    ],
    ids=range(13),
)  # fmt: skip
def test_a_line_of_100_kb_takes_no_longer_than_its_length(text):
    start = time.process_time()
    parse_option(text, OPTIONS)
    assert time.process_time() - start < 10.0  # a second at most; quadratic work takes minutes


LABELS = st.sampled_from([-1, 0, 1, 2, 3, 4])
QUESTIONS = st.dictionaries(
    st.sampled_from("abcdefgh"),
    st.fixed_dictionaries({"gold_label": st.integers(1, 4), "difficult": st.sampled_from([0, 1, None])}),
)


@given(st.dictionaries(st.sampled_from("abcdefghij"), LABELS), QUESTIONS)
def test_accuracy_and_sat_style_agree_with_a_slow_count(predictions, questions):
    found = quality_accuracy(predictions, questions)
    for suffix, chosen in (("", list(questions)), ("_hard", [q for q in questions if questions[q]["difficult"] == 1])):
        points, rights = [], 0
        for name in chosen:
            if name in predictions and predictions[name] == questions[name]["gold_label"]:
                points, rights = [*points, Fraction(1)], rights + 1
            else:
                points.append(Fraction(0) if name in predictions and predictions[name] == -1 else Fraction(-1, 3))
        assert found[f"n{suffix}"] == len(chosen)
        if chosen:
            assert found[f"accuracy{suffix}"] == pytest.approx(rights / len(chosen), abs=1e-12)
            assert found[f"sat_style{suffix}"] == pytest.approx(float(sum(points) / len(chosen)), abs=1e-12)
        else:
            assert found[f"accuracy{suffix}"] is None and found[f"sat_style{suffix}"] is None
