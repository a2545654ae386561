"""Numbers of whole files of predictions, against the official totals and literal counts."""

import json

import pytest

from pipeline.tools.outside_predictions import Answered, Prediction
from pipeline.tools.references import Reference
from pipeline.tools.tally import tally


def answered(reference, value=None, evidence=None):
    return Answered(reference, None if value is None else Prediction("here", reference.names, value, evidence))


def values(found):
    return {score.name: (score.value, score.n) for score in found.scores}


def test_the_golden_total_of_qasper_is_met(shared):
    lines = (shared / "golden" / "metrics" / "qasper_structured.jsonl").read_text(encoding="utf-8").splitlines()
    row = next(row for row in map(json.loads, lines) if row["id"] == "aggregate")
    items = []
    for question in row["references"]["paper"]["qas"]:
        reference = Reference((question["question_id"],), ["some"], annotations=question["answers"])
        given = row["prediction"].get(question["question_id"])
        items.append(
            answered(reference)
            if given is None
            else answered(reference, given["predicted_answer"], given["predicted_evidence"])
        )
    expected, found = row["expected"], tally("qasper", items)
    scores = values(found)
    assert found.num_missing == expected["Missing predictions"] == 3
    assert scores["answer_f1"] == (pytest.approx(expected["Answer F1"], abs=1e-9), 12)
    assert scores["evidence_f1"] == (pytest.approx(expected["Evidence F1"], abs=1e-9), 12)
    for kind, score in expected["Answer F1 by type"].items():
        assert scores[f"answer_f1_booked_{kind}"][0] == pytest.approx(score, abs=1e-9)
    # The first annotators' types count every question, missing ones as 0.
    assert sum(scores[f"answer_f1_first_{kind}"][1] for kind in expected["Answer F1 by type"]) == 12
    assert sum(scores[f"answer_f1_booked_{kind}"][1] for kind in expected["Answer F1 by type"]) == 9


def test_evidence_has_no_score_where_nobody_gave_any_and_lost_references_are_left_out():
    none = {"answer": {"unanswerable": True, "extractive_spans": [], "free_form_answer": "", "yes_no": None}}
    none["answer"]["evidence"] = []
    asked = Reference(("q1",), ["Unanswerable"], annotations=[none])
    found = tally("qasper", [answered(asked, "unanswerable"), answered(Reference(("q2",), []), "x")])
    assert (found.num_questions, found.num_missing, found.num_left_out) == (1, 0, 1)
    assert values(found)["answer_f1"] == (1.0, 1) and values(found)["evidence_f1"] == (None, 0)
    assert values(tally("qasper", [answered(asked, "x", [])]))["evidence_f1"] == (1.0, 1)


def test_quality_counts_unparseable_and_missing_answers_as_wrong_and_abstentions_apart():
    options = ["red", "blue", "green", "grey"]
    given = [2, "(B)", "I do not know", -1, None, "The answer is blue"]
    items = [
        answered(Reference((f"q{at}",), ["blue"], options, label=2, difficult=at % 2), value)
        for at, value in enumerate(given)
    ]
    found = tally("quality", items)
    assert (found.num_questions, found.num_missing, found.num_unparseable) == (6, 1, 2)
    scores = values(found)
    assert scores["accuracy"] == (pytest.approx(2 / 6), 6) and scores["accuracy_hard"] == (pytest.approx(1 / 3), 3)
    assert scores["sat_style"] == (pytest.approx((2 - 3 / 3) / 6), 6)
    assert scores["sat_style_hard"] == (pytest.approx((1 - 1 / 3) / 3), 3)


@pytest.mark.parametrize(
    ("benchmark", "prediction", "expected"),
    [
        ("nq", "the Paris\nLondon", {"best_subspan_em": 1.0, "exact_match": 1.0, "token_f1": 1.0}),
        ("nq", "\nParis", {"best_subspan_em": 0.0, "exact_match": 0.0, "token_f1": 0.0}),
        ("jsonl", "It is Paris\nx", {"exact_match": 0.0, "token_f1": pytest.approx(0.5), "best_subspan_em": 1.0}),
        ("hotpot", "Paris\nLondon", {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}),
        ("longbench", "Paris\nLondon", {"qa_f1": pytest.approx(2 / 3)}),
        ("squality", "Paris", {"rouge_1": 1.0, "rouge_2": 0.0, "rouge_l": 1.0}),
    ],
)
def test_each_benchmark_reads_what_its_script_reads(benchmark, prediction, expected):
    cut = (lambda text: text.split("\n")[0].strip()) if benchmark in ("nq", "jsonl") else str
    found = tally(benchmark, [answered(Reference(("q",), ["Paris"], cut=cut), prediction)])
    assert {score.name: score.value for score in found.scores} == expected
    missing = tally(benchmark, [answered(Reference(("q",), ["the"], cut=cut))])
    assert all(score.value == 0.0 for score in missing.scores)


def test_no_questions_have_no_scores():
    for benchmark in ("quality", "qasper", "nq"):
        assert all(score.value is None and score.n == 0 for score in tally(benchmark, []).scores)
