"""The record of the map, and its sentences."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.report import focus_map
from pipeline.report.focus_map import FocusMap, MapCell
from pipeline.runtime.errors import ArtifactError
from tests.conftest import ROOT

LABELLED, DOCUMENTS, RATES = (50, 100, 200, 400, 1000), (8, 12, 20, 32), (0.0, 0.25, 1.0)


def cell(difference: float = 0.01, p_corrected: float = 1.0, **more: Any) -> MapCell:
    """A cell whose interval is 4 points to either side."""
    given = {
        "row": "focused-50", "labelled_questions": 50, "num_documents": 8, "name_sharing_rate": 0.25, "focused": 0.5,
        "vanilla": 0.5 - difference, "difference": difference, "low": difference - 0.04, "high": difference + 0.04,
        "p_value": p_corrected / 2, "p_corrected": p_corrected, "num_seeds": 5, "num_questions": 128,
    }  # fmt: skip
    return MapCell(**{**given, **more})


def whole(**changes: MapCell) -> FocusMap:
    """A map of 60 cells; `changes` replaces those of these keys, as c50_8_0."""
    cells = [
        changes.get(
            f"c{labelled}_{documents}_{100 * rate:g}",
            cell(labelled_questions=labelled, num_documents=documents, name_sharing_rate=rate),
        )
        for labelled in LABELLED
        for documents in DOCUMENTS
        for rate in RATES
    ]
    return FocusMap(cells=cells, code="commit abc of 2026-11-30, the tree is clean")


def said(found: FocusMap) -> str:
    return focus_map.claim(found).replace("\N{NO-BREAK SPACE}", " ")


def test_the_sentence_names_every_cell_above_zero_after_correction_and_the_best():
    found = whole(
        c50_8_0=cell(0.08, 0.003, name_sharing_rate=0.0),
        c1000_32_100=cell(0.06, 0.04, labelled_questions=1000, num_documents=32, name_sharing_rate=1.0),
        c100_12_25=cell(-0.09, 0.01, labelled_questions=100, num_documents=12),
        c200_8_0=cell(0.05, 0.051, labelled_questions=200, name_sharing_rate=0.0),  # not significant
    )
    assert said(found) == (
        "After correction for 60 comparisons, focused learning is above vanilla fine-tuning in 2 of 60 cells (50 "
        "labelled questions over 8 documents with 0 % sharing a name and 1,000 labelled questions over 32 documents "
        "with 100 % sharing a name), and below it in 1 of them; the best cell is 50 labelled questions over 8 "
        "documents with 0 % sharing a name: +8.0 points (95 % interval +4.0 to +12.0, corrected p = 0.003)."
    )


def test_the_sentence_says_that_no_cell_is_above_zero():
    found = whole(c400_20_25=cell(0.03, 0.4, labelled_questions=400, num_documents=20))
    assert said(found) == (
        "After correction for 60 comparisons, focused learning is above vanilla fine-tuning in none of 60 cells; the "
        "best cell is 400 labelled questions over 20 documents with 25 % sharing a name: +3.0 points (95 % interval "
        "\N{MINUS SIGN}1.0 to +7.0, corrected p = 0.400)."
    )


def test_the_caption_says_what_all_models_are_trained_on_and_which_code_made_the_cells():
    caption = focus_map.caption(whole())
    assert caption.startswith("Focused learning minus vanilla fine-tuning with equal compute, in points")
    assert "5 seeds x 128 questions in each cell" in caption
    assert "All models are trained on the same contexts, those of the default run" in caption
    assert caption.endswith("commit abc of 2026-11-30, the tree is clean.")


def test_the_table_has_a_line_for_each_cell_and_says_when_there_is_none():
    shown = focus_map.markdown(whole()).splitlines()
    assert len([line for line in shown if line.startswith("| ")]) == 1 + 60
    assert shown[0].startswith("After correction for 60 comparisons")
    assert focus_map.markdown(FocusMap(cells=[])) == "No cells yet: `make map` fills this table.\n"


def test_the_record_is_read_back_and_a_broken_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    path = Path("reports/map.json")
    with pytest.raises(ArtifactError, match=r"^reports/map.json: no such file; run `git checkout .*` or `make map`"):
        focus_map.read()
    path.parent.mkdir()
    path.write_text(whole().model_dump_json())
    assert focus_map.read() == whole()
    path.write_text('{"cells": []}')
    assert focus_map.read() == FocusMap(cells=[])
    path.write_text('{"cells": [{"row": "focused-50"}]}')
    with pytest.raises(ArtifactError, match=r"not a map \(cells.0.difference: field required\); run `git checkout"):
        focus_map.read()


def test_the_shipped_record_is_of_this_version(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    assert len(focus_map.read().cells) in (0, 60)
