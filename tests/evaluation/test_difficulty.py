"""The difficulty surface: cells of the predictions."""

import pytest

from pipeline.common.tables import name_sharing_rate_of, subset_of
from pipeline.evaluation.score import surface


def row(question, num_documents, rate, score, error):
    return {
        "method": "base", "input": "full", "question_id": question, "num_documents": num_documents,
        "subset": subset_of(rate), "score": score, "error": error,
    }  # fmt: skip


def test_cells_are_means_by_documents_and_rate_in_ascending_order():
    rows = [
        row("a", 8, 0.5, 1.0, "correct"), row("b", 8, 0.5, 0.0, "distraction"),
        row("a", 8, 0.0, 1.0, "correct"), row("a", 2, 1.0, 0.0, "other"),
    ]  # fmt: skip
    cells = surface(rows, resamples=200)
    assert [(cell["num_documents"], cell["name_sharing_rate"]) for cell in cells] == [(2, 1.0), (8, 0.0), (8, 0.5)]
    assert [cell["score"]["mean"] for cell in cells] == [0.0, 1.0, 0.5]
    assert [cell["distraction_rate"]["mean"] for cell in cells] == [0.0, 0.0, 0.5]
    assert [cell["num_examples"] for cell in cells] == [1, 1, 2]
    assert cells[2]["score"]["low"] == 0.0 and cells[2]["score"]["high"] == 1.0
    assert surface([], resamples=200) == []


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.25, 1.0])
def test_a_subset_names_its_rate(rate):
    assert name_sharing_rate_of(subset_of(rate)) == rate
