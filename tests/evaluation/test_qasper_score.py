"""The official scores of one question of Qasper, and what the official code stops at."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import metrics
from pipeline.evaluation.metrics import qasper_scores

TEXTS = st.sampled_from(["", "the", "red fox", "fox", "Yes", "no", "unanswerable", "-"])
PARAGRAPHS = st.lists(st.sampled_from(["p1", "p2", "p1 ", "FLOAT SELECTED: Table 1"]), max_size=4)


def answer(unanswerable=False, spans=(), free="", yes_no=None, evidence=()):
    return {
        "answer": {
            "unanswerable": unanswerable,
            "extractive_spans": list(spans),
            "free_form_answer": free,
            "yes_no": yes_no,
            "evidence": list(evidence),
        }
    }


ANSWERS = st.lists(
    st.builds(answer, unanswerable=st.just(True), evidence=PARAGRAPHS)
    | st.builds(answer, spans=st.lists(TEXTS, min_size=1, max_size=2), evidence=PARAGRAPHS)
    | st.builds(answer, free=TEXTS.filter(bool), evidence=PARAGRAPHS)
    | st.builds(answer, yes_no=st.booleans(), evidence=PARAGRAPHS),
    min_size=1,
    max_size=3,
)
PREDICTIONS = st.fixed_dictionaries({"predicted_answer": TEXTS, "predicted_evidence": PARAGRAPHS})


@pytest.mark.parametrize(
    ("given_answer", "expected"),
    [
        (answer(unanswerable=True, spans=["x"], evidence=["p1"]), ("Unanswerable", "none", [])),
        (answer(spans=["x", "y"], free="z", evidence=["p1"]), ("x, y", "extractive", ["p1"])),
        (answer(free="z", yes_no=True), ("z", "abstractive", [])),
        (answer(yes_no=True), ("Yes", "boolean", [])),
        (answer(yes_no=False), ("No", "boolean", [])),
    ],
)
def test_an_answer_has_the_first_kind_it_can_have(given_answer, expected):
    assert metrics.reference(given_answer["answer"]) == expected


def test_a_question_without_answers_and_an_answer_without_content_are_refused():
    prediction = {"predicted_answer": "x", "predicted_evidence": []}
    with pytest.raises(ValueError, match="answers is empty"):
        qasper_scores(prediction, [])
    with pytest.raises(ValueError, match="neither unanswerable"):
        qasper_scores(prediction, [answer()])


def test_an_empty_prediction_on_an_unanswerable_question_has_no_answer_f1_and_full_evidence_f1():
    found = qasper_scores({"predicted_answer": "", "predicted_evidence": []}, [answer(unanswerable=True)])
    assert found == {"answer_f1": 0.0, "evidence_f1": 1.0, "booked_type": "none"}


def test_a_figure_is_taken_out_of_the_references_only():
    float_text = "FLOAT SELECTED: Table 1"
    prediction = {"predicted_answer": "5", "predicted_evidence": ["p1", float_text]}
    answers = [answer(free="5", evidence=["p1", float_text])]
    assert qasper_scores(prediction, answers)["evidence_f1"] == 1.0
    assert qasper_scores(prediction, answers, text_evidence_only=True)["evidence_f1"] == pytest.approx(2 / 3)


@given(PREDICTIONS, ANSWERS)
def test_scores_are_bounded_and_booked_under_the_first_of_the_best(prediction, answers):
    found = qasper_scores(prediction, answers)
    assert 0.0 <= found["answer_f1"] <= 1.0 and 0.0 <= found["evidence_f1"] <= 1.0
    alone = [qasper_scores(prediction, [one]) for one in answers]
    best = next(one for one in alone if one["answer_f1"] == max(other["answer_f1"] for other in alone))
    assert (found["answer_f1"], found["booked_type"]) == (best["answer_f1"], best["booked_type"])
    assert found["evidence_f1"] == max(one["evidence_f1"] for one in alone)


@given(PREDICTIONS, ANSWERS, ANSWERS)
def test_one_more_annotator_never_lowers_a_score(prediction, answers, more):
    few, many = qasper_scores(prediction, answers), qasper_scores(prediction, answers + more)
    assert few["answer_f1"] <= many["answer_f1"] and few["evidence_f1"] <= many["evidence_f1"]
