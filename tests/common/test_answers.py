"""When a text holds an answer."""

import pytest

from pipeline.common.text import has_answer


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("She was born in Lisbon, the second child.", "lisbon", True),
        ("She was born in Lisbon.", "Lis", False),  # a part of a word is no match
        ("He moved to New  York in 1999", "New York", True),
        ("He moved to New, York", "New York", False),
        ("a café in Nîmes", "cafe\u0301", True),  # NFC and NFD are the same
        ("anything", "", False),
        ("anything", " \u200b", False),
        ("It costs 3.14 dollars", "3.14", True),
    ],
)
def test_answers_match_as_runs_of_whole_tokens(text, answer, expected):
    assert has_answer(text, answer) is expected
