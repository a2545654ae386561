"""What the official evaluators print: the same for our own predictions as for anybody's."""

import pytest

from pipeline.evaluation import official
from pipeline.tools.outside_predictions import Answered, Prediction
from pipeline.tools.references import Reference
from pipeline.tools.tally import tally

OPTIONS = ["Rain", "Hail", "Snow", "Fog"]


def test_written_quality_answers_score_as_outside_ones_do_abstentions_aside():
    written = {"q1": "B", "q2": "(C) Snow", "q3": "who knows", "q4": "A or B"}
    gold, subset = {"q1": 1, "q2": 0, "q3": 2, "q4": 3}, {"q1": "hard", "q2": "easy", "q3": "hard", "q4": ""}
    rows, answered = [], []
    for name, text in written.items():
        generated = {"B": 1, "(C) Snow": 2}.get(text, -1)
        rows.append(
            {
                "benchmark": "quality", "example_id": name, "subset": subset[name], "gold_option": gold[name],
                "generated_option": generated, "likeliest_option": gold[name],
            }
        )  # fmt: skip
        reference = Reference(
            names=(name,), answers=[OPTIONS[gold[name]]], options=OPTIONS, label=gold[name] + 1,
            difficult=int(subset[name] == "hard"),
        )  # fmt: skip
        answered.append(Answered(reference, Prediction(name, (name,), text, None)))
    ours, theirs = official.figures(rows), tally("quality", answered)
    for score in theirs.scores:
        assert ours[f"{score.name}_generated"] == pytest.approx(score.value), score.name
    assert ours["accuracy_generated"] == 0.25 and ours["unparseable"] == 0.5
    assert ours["sat_style_generated"] == pytest.approx((1 - 3 / 3) / 4)
    assert (ours["accuracy_likeliest"], ours["num_hard"]) == (1.0, 2)


def test_qasper_books_by_the_best_reference_and_by_the_first_annotator():
    rows = [
        {
            "benchmark": "qasper", "prediction": "red fox", "answers": ["No", "the red fox"],
            "answer_types": ["boolean", "extractive"], "score": 1.0,
        },
        {"benchmark": "qasper", "prediction": "x", "answers": ["Yes"], "answer_types": ["boolean"], "score": 0.0},
    ]  # fmt: skip
    assert official.figures(rows) == {
        "answer_f1": 0.5, "answer_f1_booked_boolean": 0.0, "answer_f1_booked_extractive": 1.0,
        "answer_f1_first_boolean": 0.5, "num_first_boolean": 2,
    }  # fmt: skip


def test_hotpot_gives_no_credit_for_words_shared_with_a_yes_or_no():
    row = {"benchmark": "hotpot", "prediction": "no way", "answers": ["no"], "exact_match": 0.0}
    assert official.figures([row]) == {"exact_match": 0.0, "answer_f1": 0.0}


def test_a_benchmark_without_an_official_evaluator_has_no_figures():
    assert official.figures([{"benchmark": "bios"}]) == official.figures([]) == {}
