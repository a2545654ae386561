"""Messages of errors in one line."""

import pytest

from pipeline.runtime.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\n  second\tthird"), "first second third"),
        (ValueError(""), "ValueError"),
        (OSError(" \n"), "OSError"),
    ],
)
def test_a_message_of_many_lines_becomes_one_and_an_empty_one_the_kind(error, line):
    assert one_line(error) == line
