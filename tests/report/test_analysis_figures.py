"""Figures and tables of the analysis: what they show, in which order, and what a gap looks like."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from pipeline.report import analysis_figures, analysis_grids, grids, wording
from tests.report.test_svg import luminance
from tests.stages import made_results

MINUS, NONE, TO = wording.MINUS, wording.NONE, "\N{EN DASH}"


def analysis(**changes: Any) -> dict[str, Any]:
    names = ("later", "focused", "base")
    found = {
        "methods": {name: made_results.inside(12) for name in names},
        "answers": {name: made_results.answered(number, 12) for number, name in enumerate(names)},
    }
    return {**found, **changes}


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_attention_is_drawn_by_layer_for_each_role_and_by_place_for_gold():
    drawn = analysis_figures.attention(analysis())
    assert [label.key for label, _ in drawn] == [
        "attention-gold", "attention-namesake", "attention-other", "attention-position",
    ]  # fmt: skip
    for label, svg in drawn[:3]:
        found = texts(svg)
        assert {"base", "focused", "later", analysis_figures.EVEN, "1", "2", "3", "Layer"} <= set(found), label
    assert {f"1{TO}2", f"11{TO}12", "base"} <= set(texts(drawn[3][1])) and analysis_figures.EVEN not in texts(
        drawn[3][1]
    )


def test_a_layer_that_sees_no_gold_is_a_gap_and_has_its_table():
    hidden = made_results.inside(12, out_of_reach=1.0)
    found = analysis(methods={"base": hidden})
    gold, whole = (
        analysis_figures.attention(of)[0][1] for of in (found, analysis(methods={"base": made_results.inside(12)}))
    )
    num_points = [
        len(re.findall(r'aria-roledescription="point"|<path[^>]*transform="translate', svg)) for svg in (gold, whole)
    ]
    assert num_points[0] == num_points[1] - 1
    assert analysis_grids.reach(found).rows == [
        ("1", [NONE, "0.0", "50"]), ("2", ["256", "100.0", "50"]), ("3", [NONE, "0.0", "50"]),
    ]  # fmt: skip
    assert analysis_grids.reach(analysis()) == grids.Grid([], [])


def test_only_kinds_that_there_are_have_a_colour_in_the_legend():
    ((_, svg),) = analysis_figures.kinds(analysis())
    found = texts(svg)
    assert {"correct", "in a distractor", "in gold", "nowhere", "50", "25", "15", "10"} <= set(found)
    assert not {"no answer", "wrong option"} & set(found)
    assert [name for name in found if name in ("base", "focused", "later")] == ["base", "focused", "later"]


@pytest.mark.parametrize("background", ["#ffffff", "#15181b"])
@pytest.mark.parametrize("colour", [colour for _, colour in analysis_figures.KINDS.values()])
def test_colours_stand_out_on_a_light_and_on_a_dark_page(colour: str, background: str):
    light, dark = sorted((luminance(colour), luminance(background)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3.0


def test_the_tables_by_literal_cells():
    found = analysis()
    matched = analysis_grids.matching(found)
    assert matched.headings == ["Own question", "Shuffled questions", "One for all", "Same context"]
    assert [name for name, _ in matched.rows] == ["base", "focused", "later", "by chance"]
    assert (matched.rows[0][1][0], matched.rows[-1][1][0]) == ("50.0 [45.0, 55.0]", "2.0")
    assert analysis_grids.outcomes(found).rows[0] == ("base", ["25.0 [20.0, 30.0]"] * 4)
    bias = analysis_grids.slopes(found)
    attention = f"{MINUS}25.0 [{MINUS}30.0, {MINUS}20.0]"
    assert bias.rows[0] == ("base", ["+20.0 [+15.0, +25.0]", NONE, attention, NONE])
    assert bias.rows[2][1][0] == f"+0.0 [{MINUS}5.0, +5.0]"  # `later`, the first of the file


def test_answers_put_there_by_hand_have_a_bias_without_a_network():
    found = analysis(answers={"by-hand": made_results.answered(1, 12)})
    assert analysis_grids.slopes(found).rows == [("by-hand", ["+10.0 [+5.0, +15.0]", NONE, NONE, NONE])]


@pytest.mark.parametrize(
    "found",
    [{}, {"methods": {"base": {}}, "answers": {}}, {"methods": {"base": {"attention": None, "matching": None}}}],
)
def test_an_analysis_that_lacks_everything_shows_nothing(found: dict[str, Any]):
    assert analysis_figures.attention(found) == analysis_figures.kinds(found) == []
    for table in (analysis_grids.matching, analysis_grids.outcomes, analysis_grids.slopes, analysis_grids.reach):
        assert table(found) == grids.Grid([], [])
