"""The cells of the map: who is compared with whom and where, against a slow reference."""

import dataclasses
import random
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipeline.common.tables import subset_of
from pipeline.report.focus_map import FocusMap
from pipeline.report.text import SIGNIFICANCE
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.ablations import cells, tabulate
from pipeline.tools.ablations.grid import LABELLED

CONDITIONS = [(num_documents, rate) for num_documents in (8, 32) for rate in (0.0, 0.25, 1.0)]


def row(name: str, labelled: int, skill: float, seeds: tuple[int, ...] = (1, 2, 3), **more: Any) -> Any:
    """A row whose answers are right by chance, and more often with skill; they come in no order."""
    draw = random.Random(f"{name} {skill}")
    answers = [
        {
            "seed": seed, "example_id": f"q{question}-in-{num_documents}-{rate}", "question_id": f"q{question}",
            "num_documents": num_documents, "subset": subset_of(rate),
            "score": float(draw.random() < skill - (num_documents == 32) * rate / 4),
        }
        for seed in seeds
        for question in range(24)
        for num_documents, rate in CONDITIONS
    ]  # fmt: skip
    draw.shuffle(answers)
    given = {"label": name, "group": "", "method": "", "input": "full", "identity": (name,), **more}
    return tabulate.AblationAnswers(name, overrides={LABELLED: labelled}, answers=pl.DataFrame(answers), **given)


ROWS = [
    row("v50", 50, 0.3, reference="v50"), row("f50", 50, 0.9, reference="v50"),
    row("v400", 400, 0.6, reference="v400"), row("f400", 400, 0.6, reference="v400"),
]  # fmt: skip


def measured(rows: list[Any]) -> FocusMap:
    return cells.measure(rows, seconds=12.5, code="commit x", resamples=2000)


def test_every_cell_is_that_of_a_slow_reference(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tabulate, "_rescaled", lambda draws_R, mean, variance, df: draws_R)  # has tests of its own
    found = measured(ROWS)
    assert [(cell.row, cell.num_documents, cell.name_sharing_rate) for cell in found.cells] == [
        (name, *condition) for name in ("f50", "f400") for condition in CONDITIONS
    ]
    assert [cell.labelled_questions for cell in found.cells] == [50] * 6 + [400] * 6
    assert (found.seconds, found.code) == (12.5, "commit x")
    score_of = {
        (one.name, answer["num_documents"], answer["subset"], answer["seed"], answer["question_id"]): answer["score"]
        for one in ROWS
        for answer in one.answers.iter_rows(named=True)
    }
    questions = [f"q{number}" for number in range(24)]
    for cell in found.cells:
        where = cell.num_documents, subset_of(cell.name_sharing_rate)
        focused, vanilla = (
            [[score_of[name, *where, seed, question] for question in questions] for seed in (1, 2, 3)]
            for name in (cell.row, cell.row.replace("f", "v"))
        )
        assert cell.focused == pytest.approx(sum(map(sum, focused)) / 72)
        assert cell.vanilla == pytest.approx(sum(map(sum, vanilla)) / 72)
        assert cell.difference == pytest.approx(cell.focused - cell.vanilla)
        assert (cell.num_seeds, cell.num_questions) == (3, 24)
        draw, resampled = random.Random(0), []
        for _ in range(2000):
            seeds, asked = draw.choices(range(3), k=3), draw.choices(range(24), k=24)
            resampled.append(sum(focused[s][q] - vanilla[s][q] for s in seeds for q in asked) / 72)
        assert (cell.low, cell.high) == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.03)
        beyond = min(sum(x <= 0 for x in resampled), sum(x >= 0 for x in resampled)) / 2000
        assert cell.p_value == pytest.approx(min(1.0, 2 * beyond), abs=0.06)
    ordered = sorted(found.cells, key=lambda cell: cell.p_value)
    least = 0.0
    for place, cell in enumerate(ordered):  # Holm, as published
        least = max(least, min(1.0, cell.p_value * (12 - place)))
        assert cell.p_corrected == pytest.approx(least)
    significant = [cell for cell in found.cells if cell.p_corrected < SIGNIFICANCE]
    assert {cell.labelled_questions for cell in significant} == {50}
    assert all(cell.difference > 0 for cell in significant)


def test_only_shared_seeds_are_compared_and_a_row_without_its_reference_has_no_cell():
    fewer = row("f50", 50, 0.9, seeds=(2, 3, 7), reference="v50")
    assert {cell.num_seeds for cell in measured([ROWS[0], fewer]).cells} == {2}
    assert measured([ROWS[0], ROWS[3]]).cells == []
    assert measured([]).cells == []


def test_rows_that_answered_other_examples_are_refused():
    less = dataclasses.replace(ROWS[1], answers=ROWS[1].answers.filter(pl.col("question_id") != "q3"))
    with pytest.raises(ArtifactError, match="rows f50 and v50 answer different examples"):
        measured([ROWS[0], less])
