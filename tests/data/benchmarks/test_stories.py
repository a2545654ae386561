"""Stories of both benchmarks: no word is lost, and paragraphs follow the white space of the stripped files."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.data.benchmarks import stories

# White space as the official files have it, the words are ours.
QUALITY = (
    "THE BLUE DOOR\nBy A. WRITER\n\n\n [Note: This was\n\n printed in\n\n a magazine.]\nNo one had opened it\n"
    ' for years.\n\n\n "Is it locked?" he\n asked.\n\n\n She read the\nAnabasis\n, and was still.\n'
    "The next day\n it rained.\n\n\n II"
)
SQUALITY = (
    "THE BLUE DOOR\n \n\n By A. WRITER\n \n No one had opened it.\n \n \n\n \n A day later it rained.\nIt was wet."
)
SQUALITY_WRAPPED = (
    "\n\n\n\nMade by B.\nTHE BLUE DOOR\nNo one had\n   \n  opened it.\n \n  Who had\nthe key?\n \n  It rained.\n"
    "The next\nday."
)


@pytest.mark.parametrize(
    ("text", "paragraphs"),
    [
        (
            QUALITY,
            [
                "THE BLUE DOOR By A. WRITER",
                "[Note: This was printed in a magazine.]",
                "No one had opened it for years.",
                '"Is it locked?" he asked.',
                "She read the Anabasis , and was still.",
                "The next day it rained.",
                "II",
            ],
        ),
        (SQUALITY, ["THE BLUE DOOR", "By A. WRITER", "No one had opened it.", "A day later it rained.", "It was wet."]),
        (
            SQUALITY_WRAPPED,
            ["Made by B.", "THE BLUE DOOR No one had opened it.", "Who had the key?", "It rained.", "The next day."],
        ),
        (
            "THE    BLUE    DOOR \n\n   By A. WRITER \n\n   No one\n had.",
            ["THE BLUE DOOR", "By A. WRITER", "No one had."],
        ),
        ("One.\n\nTwo.\r\n\r\nThree.\n \nFour.", ["One.", "Two.", "Three.", "Four."]),
        ("A poem:\n\n one\n\n two", ["A poem:", "one", "two"]),
        (" \n\n ", []),
    ],
)
def test_paragraphs_are_found_by_the_white_space_of_each_release(text, paragraphs):
    assert stories.reflow(text).split("\n\n") == (paragraphs or [""])


SPACES = ["\n", "\n ", "\n\n ", "\n\n\n ", "\n \n ", "\n \n  ", "\n   \n  ", "  ", "\t", "\r\n", "\u2028", "\xa0"]


@given(st.lists(st.sampled_from([*SPACES, "word", "End.", 'said."', "Mr", "é", "..."]), max_size=30).map("".join))
@example(QUALITY)
def test_reflowing_keeps_every_word_and_leaves_two_kinds_of_white_space(text):
    found = stories.reflow(text)
    assert found.split() == text.split()
    assert set(re.findall(r"\s+", found)) <= {" ", "\n\n"}
    assert stories.reflow(found) == found
