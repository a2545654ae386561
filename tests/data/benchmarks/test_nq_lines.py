"""Lines of both formats: one kind of question, told apart by its words."""

import pytest

from pipeline.data.benchmarks import nq_lines

GOLD = {"title": "Sea", "text": "The sea is in the west.", "isgold": True}


def read(*values):
    rejects = {}
    found = list(
        nq_lines.questions([(f"line {place}", value) for place, value in enumerate(values)], rejects.setdefault)
    )
    assert rejects == {}
    return found


def test_a_line_with_passages_is_a_record_and_one_without_an_open_question():
    record, asked = read(
        {"question": "where is the sea", "answers": ["west"], "ctxs": [GOLD | {"id": "7", "hasanswer": True}]},
        {"question": "where is the lake", "answer": ["east", "the east"]},
    )
    assert (record.place, record.text, record.answers) == ("line 0", "where is the sea", ["west"])
    assert [(passage.title, passage.text, passage.isgold) for passage in record.passages] == [tuple(GOLD.values())]
    assert (asked.place, asked.answers, asked.passages) == ("line 1", ["east", "the east"], [])


@pytest.mark.parametrize(
    ("wording", "same"),
    [
        ("Where is  the Sea?", True),
        (" where is the sea ??\n", True),
        ("where is? the sea", False),
        ("where is the seas", False),
    ],
)
def test_case_blanks_and_final_question_marks_make_no_other_question(wording, same):
    first, second = read(*({"question": text, "answer": ["west"]} for text in ("where is the sea", wording)))
    assert (first.question_id == second.question_id) == same


def test_the_survey_knows_who_asks_last_and_what_the_test_files_carry():
    lake = {"text": "The lake.", "isgold": True}
    alone = {"question": "where is the sea", "answers": ["west"], "ctxs": [GOLD]}
    whole = {"question": "where is the lake", "answers": ["east"], "ctxs": [lake, {"text": "A hill."}]}
    asked = {"question": "Where is the lake?", "answer": ["east"]}
    files = {"train": [("a", asked), ("b", alone)], "dev": [("c", whole | {"question": "how"})], "test": [("d", whole)]}
    found = nq_lines.survey(files, pytest.fail)
    assert list(found.owner_of.values()) == ["test", "train", "dev"]
    assert found.test_gold == []
    assert found.test_texts == {
        nq_lines.text_digest(nq_lines.Passage(text=text)) for text in ("the lake .", "A  Hill.")
    }
    again = nq_lines.survey({"test": [("d", alone), ("e", alone), ("f", whole)]}, pytest.fail)
    assert [passage.text for passage in again.test_gold] == [GOLD["text"]]
