"""The scores that official evaluators print, on literal rows of predictions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation import metrics, official

TEXTS = st.sampled_from(["", "the", "red fox", "fox", "Yes", "no", "unanswerable", "-"])


def test_quality_counts_an_answer_that_names_no_option_as_wrong_and_an_abstention_apart():
    generated = {"q1": (1, 1, "hard"), "q2": (0, 2, "easy"), "q3": (2, -1, "hard"), "q4": (3, -2, "")}
    rows = [
        {
            "benchmark": "quality", "example_id": name, "subset": subset, "gold_option": gold,
            "generated_option": option, "likeliest_option": gold,
        }
        for name, (gold, option, subset) in generated.items()
    ]  # fmt: skip
    found = official.figures(rows)
    assert (found["accuracy_generated"], found["accuracy_hard_generated"]) == (0.25, 0.5)
    assert found["sat_style_generated"] == pytest.approx((1 - 2 / 3) / 4)
    assert found["sat_style_hard_generated"] == pytest.approx((1 - 1 / 3) / 2)
    assert (found["accuracy_likeliest"], found["unparseable"], found["num_hard"]) == (1.0, 0.25, 2)
    assert official.scores(rows)["accuracy_hard_generated"] == (0.5, 2)


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


@given(TEXTS, st.lists(st.tuples(TEXTS, st.sampled_from(metrics.TYPES)), min_size=1, max_size=3))
def test_qasper_books_a_question_under_the_first_of_its_best_references(prediction, references):
    texts, types = [text for text, _ in references], [kind for _, kind in references]
    f1 = metrics.qasper_token_f1(prediction, texts)
    row = {"benchmark": "qasper", "prediction": prediction, "answers": texts, "answer_types": types, "score": f1}
    found = official.scores([row])
    alone = [metrics.qasper_token_f1(prediction, [text]) for text in texts]
    assert found[f"answer_f1_booked_{types[alone.index(f1)]}"] == found[f"answer_f1_first_{types[0]}"] == (f1, 1)
    assert len(found) == 3 and 0.0 <= f1 <= 1.0


def test_hotpot_gives_no_credit_for_words_shared_with_a_yes_or_no():
    row = {"benchmark": "hotpot", "prediction": "no way", "answers": ["no"], "exact_match": 0.0}
    assert official.figures([row]) == {"exact_match": 0.0, "answer_f1": 0.0}


def test_a_benchmark_without_an_official_evaluator_has_no_figures():
    assert official.figures([{"benchmark": "bios"}]) == official.figures([]) == {}
    assert official.mean([]) == (None, 0)
