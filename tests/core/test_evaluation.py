"""The columns of a prediction's row, and the figures of many rows, on literal examples."""

import pytest

from pipeline.core import evaluation

CHUNKS = [
    {"document_id": "d0", "title": "Ann Lee", "text": "Ann Lee was a baker. "},
    {"document_id": "d1", "title": "Bo Lee", "text": "Bo Lee was born in Lyon. "},
    {"document_id": "d1", "title": "Bo Lee", "text": "He was a judge."},
]


def test_distractors_are_the_documents_that_are_not_gold_as_far_as_they_are_shown():
    assert evaluation.distractors(CHUNKS, ["d0"]) == {"d1": "Bo Lee\nBo Lee was born in Lyon. \nHe was a judge."}
    assert evaluation.distractors(CHUNKS[:2], ["d0"]) == {"d1": "Bo Lee\nBo Lee was born in Lyon. "}
    assert evaluation.distractors(CHUNKS, ["d0", "d1"]) == {}


def test_nothing_is_known_to_distract_where_the_gold_document_is_unknown():
    assert evaluation.distractors(CHUNKS, []) == {}


def test_a_row_names_the_document_that_holds_the_wrong_answer():
    distractors = evaluation.distractors(CHUNKS, ["d0"])
    wrong = evaluation.score("judge", ["baker"], distractors)
    assert wrong == {
        "prediction": "judge",
        "exact_match": 0.0,
        "token_f1": 0.0,
        "best_subspan_em": 0.0,
        "error": "distraction",
        "distractor_id": "d1",
    }
    right = evaluation.score("a baker", ["baker"], distractors)
    assert (right["exact_match"], right["error"], right["distractor_id"]) == (1.0, "correct", "")
    assert evaluation.score("doctor", ["baker"], distractors)["error"] == "other"


def row(question_id, num_documents, gold_position, error, prompt_tokens=100):
    hit = float(error == "correct")
    return {
        "question_id": question_id,
        "num_documents": num_documents,
        "gold_position": gold_position,
        "prompt_tokens": prompt_tokens,
        "exact_match": hit,
        "token_f1": hit,
        "best_subspan_em": hit,
        "error": error,
    }


def test_figures_of_all_rows_by_length_and_by_position():
    rows = [
        row("p", 2, 0, "correct", 50),
        row("q", 2, 1, "distraction", 50),
        row("p", 10, 3, "other"),
        row("q", 10, 2, "distraction"),
        row("r", 10, -1, "other"),
    ]
    found = evaluation.figures(rows, resamples=100)
    overall = found["overall"]
    assert (overall["n"], overall["num_questions"], overall["mean_prompt_tokens"]) == (5, 3, 80)
    assert overall["exact_match"]["mean"] == pytest.approx(0.2)
    assert overall["distraction_rate"]["mean"] == pytest.approx(0.4)
    assert overall["distraction_share_of_errors"] == pytest.approx(0.5)
    assert [(group["num_documents"], group["n"]) for group in found["by_num_documents"]] == [(2, 2), (10, 3)]
    places = [
        (group["num_documents"], group["first_position"], group["last_position"], group["n"])
        for group in found["by_gold_position"]
    ]
    assert places == [(2, 0, 0, 1), (2, 1, 1, 1), (10, 2, 3, 2)]  # positions 2 and 3 of 10 are the second fifth


def test_a_share_of_no_errors_is_no_number():
    found = evaluation.figures([row("p", 2, 0, "correct"), row("q", 2, 1, "correct")], resamples=100)
    assert found["overall"]["distraction_share_of_errors"] is None
    assert found["overall"]["exact_match"] == {"mean": 1.0, "low": 1.0, "high": 1.0}
