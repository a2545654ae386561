"""Rows of any file into predictions, each beside its question."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.runtime.errors import DataError
from pipeline.tools import outside_predictions
from pipeline.tools.references import Reference

REFERENCES = [Reference((f"q{number}", f"alias-{number}"), ["x"]) for number in range(6)]


def parsed(*rows, benchmark="hotpot"):
    return list(outside_predictions.parse([(f"line {at}", row) for at, row in enumerate(rows, start=1)], benchmark))


@pytest.mark.parametrize("name", ["id", "question_id", "question_unique_id", "example_id"])
@pytest.mark.parametrize("value", ["prediction", "predicted_answer", "model_answer", "answer"])
def test_every_key_for_id_and_prediction_is_read(name, value):
    (found,) = parsed({name: "q1", value: "Paris", "other": 1})
    assert (found.names, found.value, found.evidence) == (("q1",), "Paris", None)


def test_a_question_names_itself_in_nq_only():
    assert parsed({"question": "who", "model_answer": "x"}, benchmark="nq")[0].names == ("who",)
    with pytest.raises(DataError, match="line 1: there is no id"):
        parsed({"question": "who", "model_answer": "x"})


def test_of_several_names_the_first_that_is_a_question_counts():
    found = outside_predictions.answered(REFERENCES, parsed({"id": 7, "question_id": "alias-2", "answer": "x"}))
    assert [item.prediction is not None for item in found] == [False, False, True, False, False, False]


@pytest.mark.parametrize(
    ("row", "benchmark", "said"),
    [
        (["q1", "x"], "hotpot", "expected an object"),
        ({"prediction": "x"}, "hotpot", "there is no id"),
        ({"id": "", "prediction": "x"}, "hotpot", "there is no id"),
        ({"id": True, "prediction": "x"}, "hotpot", "there is no id"),
        ({"id": "q1"}, "hotpot", "there is no prediction"),
        ({"id": "q1", "prediction": None}, "hotpot", "prediction is None, expected a text"),
        ({"id": "q1", "prediction": 3}, "hotpot", "prediction is 3, expected a text"),
        ({"id": "q1", "prediction": 0}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": 5}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": True}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": 1.0}, "quality", "expected a label from 1 to 4"),
        ({"id": "q1", "prediction": "x", "predicted_evidence": "p"}, "qasper", "expected a list of texts"),
        ({"id": "q1", "prediction": "x", "predicted_evidence": [1]}, "qasper", "expected a list of texts"),
    ],
)
def test_a_bad_row_is_refused_with_its_place(row, benchmark, said):
    with pytest.raises(DataError, match="line 1: ") as error:
        parsed(row, benchmark=benchmark)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_predictions_of_no_question_are_refused_and_the_first_ones_named():
    rows = [{"id": f"z{number}", "answer": "x"} for number in range(7)]
    with pytest.raises(DataError, match=r"line 2: 7 predictions \('z0', 'z1', 'z2', 'z3', 'z4', \.\.\.\) are of no"):
        outside_predictions.answered(REFERENCES, parsed({"id": "q1", "answer": "x"}, *rows))


def test_a_second_prediction_of_a_question_is_refused_whatever_name_it_uses():
    rows = [{"id": "q1", "answer": "x"}, {"id": "alias-1", "answer": "x"}]
    with pytest.raises(DataError, match=r"line 2: 1 prediction \('alias-1'\) is answered a second time.*, hint"):
        outside_predictions.answered(REFERENCES, parsed(*rows), hint=", hint")


@given(st.permutations(range(6)), st.integers(0, 6))
def test_the_order_of_predictions_does_not_matter_and_missing_ones_are_missing(order, num_given):
    rows = [{"id": f"q{number}", "answer": f"x{number}"} for number in order if number < num_given]
    found = outside_predictions.answered(REFERENCES, parsed(*rows))
    assert [item.reference for item in found] == REFERENCES
    texts = [None if item.prediction is None else item.prediction.value for item in found]
    assert texts == [f"x{number}" if number < num_given else None for number in range(6)]


def test_an_object_by_id_and_hotpots_own_form_become_rows():
    entries = [("a", ("q1", "x")), ("b", ("q2", {"predicted_answer": "y"})), ("c", {"id": "q3", "answer": "z"})]
    expected = [
        ("a", {"id": "q1", "prediction": "x"}),
        ("b", {"id": "q2", "predicted_answer": "y"}),
        ("c", {"id": "q3", "answer": "z"}),
    ]
    assert list(outside_predictions.rows(entries, "qasper")) == expected
    official = [("a", ("answer", {"q1": "x"})), ("a", ("sp", {"q1": [["T", 0]]}))]
    assert list(outside_predictions.rows(official, "hotpot")) == [("a, q1", {"id": "q1", "prediction": "x"})]
