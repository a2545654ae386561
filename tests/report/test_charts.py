"""Figures: what they show, in which order, what a gap looks like, and that heat maps are readable."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest

from pipeline.report import charts
from pipeline.report.focus_map import FocusMap
from tests.report.contrast import contrast, luminance
from tests.report.test_ablation_table import row as ablation_row
from tests.report.test_ablation_table import table
from tests.report.test_focus_map import cell as map_cell
from tests.report.test_focus_map import whole as whole_map
from tests.stages import made_results

TO = "\N{EN DASH}"


def analysis(**changes: Any) -> dict[str, Any]:
    names = ("later", "focused", "base")
    found = {
        "methods": {name: made_results.inside(12) for name in names},
        "answers": {name: made_results.answered(number, 12) for number, name in enumerate(names)},
    }
    return {**found, **changes}


def texts(drawn: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(drawn).iter("{http://www.w3.org/2000/svg}text")]


def test_attention_is_drawn_by_layer_for_each_role_and_by_place_for_gold():
    drawn = charts.attention(analysis())
    assert [figure.title for figure in drawn] == [
        *charts.ATTENTION.values(), "Attention to gold by its position, mean of layers",
    ]  # fmt: skip
    for figure in drawn[:3]:
        found = texts(figure.svg)
        assert {"base", "focused", "later", charts.UNIFORM, "1", "2", "3", "Layer"} <= set(found), figure.title
    assert {f"1{TO}2", f"11{TO}12", "base"} <= set(texts(drawn[3][1])) and charts.UNIFORM not in texts(drawn[3].svg)


def test_a_layer_that_sees_no_gold_is_a_gap():
    hidden, seen = (
        charts.attention(analysis(methods={"base": made_results.inside(12, out_of_reach=share)}))[0].svg
        for share in (1.0, 0.0)
    )
    num_points = [
        len(re.findall(r'aria-roledescription="point"|<path[^>]*transform="translate', drawn))
        for drawn in (hidden, seen)
    ]
    assert num_points[0] == num_points[1] - 1


def test_only_kinds_that_there_are_have_a_colour_in_the_legend():
    (figure,) = charts.kinds(analysis())
    found = texts(figure.svg)
    assert {"correct", "in a distractor", "in gold", "nowhere", "50", "25", "15", "10"} <= set(found)
    assert not {"no answer", "wrong option"} & set(found)
    assert [name for name in found if name in ("base", "focused", "later")] == ["base", "focused", "later"]


@pytest.mark.parametrize("background", ["#ffffff", "#15181b"])
@pytest.mark.parametrize("colour", [colour for _, colour in charts.KINDS.values()])
def test_colours_stand_out_on_a_light_and_on_a_dark_page(colour: str, background: str):
    assert contrast(colour, background) >= 3.0


def test_effects_are_the_rows_that_are_compared_in_points():
    found = charts.effects(table(ablation_row(method="vanilla"), ablation_row(0.05, 0.05), ablation_row(0.1)))
    assert [(one["difference"], one["significant"]) for one in found] == [(5.0, False), (10.0, True)]


def row(method: str, length: int, rate: float, score: float, reads: str = "full") -> dict[str, Any]:
    interval = {"mean": score, "low": score - 0.05, "high": score + 0.05}
    opposite = {"mean": 1 - score, "low": 0.95 - score, "high": 1.05 - score}
    return {
        "method": method, "input": reads, "num_documents": length, "name_sharing_rate": rate, "num_examples": 8,
        "score": interval, "distraction_rate": opposite,
    }  # fmt: skip


ROWS = [
    row(method, length, rate, 0.9 - length / 40 - rate / 4)
    for method in ("focused", "base")
    for rate in (0.25, 0.0, 1.0)
    for length in (12, 4, 8)
]


def test_maps_come_in_the_order_of_the_table_with_one_axis_for_all():
    rows = [*ROWS, row("vanilla", 4, 0.0, 0.5, "retrieval"), row("vanilla", 4, 0.0, 0.5)]
    maps = charts.heat_maps(rows, "score", "Exact match")
    assert [drawn.title for drawn in maps] == ["base", "vanilla", "vanilla + retrieval", "focused"]
    for drawn in maps:
        shown = texts(drawn.svg)
        assert [text for text in shown if text in ("4", "8", "12")] == ["4", "8", "12"]
        assert [text for text in shown if text.endswith(" %")] == ["100 %", "25 %", "0 %"]
        assert f"Exact match: {drawn.title}" in drawn.svg


@pytest.mark.parametrize("measure", charts.HEAT)
def test_each_cell_has_its_figure_and_interval(measure: str):
    drawn = charts.heat_maps(ROWS, measure, "Made")[0]
    for cell in ROWS[:9]:
        found = cell[measure]
        assert f"{100 * found['mean']:.0f}" in texts(drawn.svg)
        assert f"{100 * found['low']:.0f}\N{EN DASH}{100 * found['high']:.0f}" in texts(drawn.svg)


def test_equal_values_have_equal_colours_on_every_map():
    maps = charts.heat_maps([row("base", 4, 0.0, 0.5), row("focused", 4, 0.0, 0.5)], "score", "Made")
    fills = [re.findall(r'fill="(rgb[^"]*)"', drawn.svg) for drawn in maps]
    assert fills[0] == fills[1] and len(fills[0]) == 1


def test_with_many_lengths_the_intervals_are_left_out():
    rows = [row("base", length, 0.0, 0.5) for length in range(1, 9)]
    (drawn,) = charts.heat_maps(rows, "score", "Made")
    assert texts(drawn.svg).count("50") == 8 and "\N{EN DASH}" not in drawn.svg
    assert charts.with_intervals(ROWS) and not charts.with_intervals(rows)


def test_a_missing_cell_is_a_gap_and_equal_rows_give_equal_bytes():
    whole, less = charts.heat_maps(ROWS, "score", "Made"), charts.heat_maps(ROWS[:-1], "score", "Made")
    assert whole == charts.heat_maps(ROWS, "score", "Made")
    assert len(texts(whole[0].svg)) == len(texts(less[0].svg)) + 2
    assert whole[1] == less[1]


def test_names_cannot_be_markup_and_share_no_ids():
    rows = [row(method, 4, 0.0, 0.5) for method in ("<b>", "&b;", "b b", "b-b")]
    maps = charts.heat_maps(rows, "score", "Made")
    ids = [name for drawn in maps for name in re.findall(r'\bid="([^"]+)"', drawn.svg)]
    assert len(ids) == len(set(ids))
    assert all(ElementTree.fromstring(drawn.svg) is not None for drawn in maps)


@pytest.mark.parametrize("measure", charts.HEAT)
def test_more_is_darker_and_its_figure_has_contrast(measure: str):
    rows = [row("base", percent, 0.0, percent / 100) for percent in range(101)]
    if measure != "score":
        rows = [{**cell, measure: cell["score"]} for cell in rows]
    (drawn,) = charts.heat_maps(rows, measure, "Made")
    fills = re.findall(r'fill="(rgb[^"]*)"', drawn.svg)
    inks = re.findall(r'fill="(black|white)"', drawn.svg)
    assert len(fills) == len(inks) == 101
    shades = [luminance(fill) for fill in fills]
    assert shades == sorted(shades, reverse=True) and shades[0] > 0.8 and shades[-1] < 0.1
    assert all(contrast(fill, ink) >= 4.5 for fill, ink in zip(fills, inks, strict=True))


@pytest.mark.parametrize(
    "found",
    [{}, {"methods": {"base": {}}, "answers": {}}, {"methods": {"base": {"attention": None, "matching": None}}}],
)
def test_an_analysis_that_lacks_everything_shows_no_figure(found: dict[str, Any]):
    assert charts.attention(found) == charts.kinds(found) == []


def test_the_map_has_a_facet_for_each_share_and_every_difference_in_points():
    found = whole_map(
        c50_8_0=map_cell(0.08, 0.003, name_sharing_rate=0.0),
        c100_12_0=map_cell(-0.123, name_sharing_rate=0.0),
    )
    maps = charts.focus_map(found)
    assert [drawn.title.partition(" of the distractors")[0] for drawn in maps] == ["0 %", "25 %", "100 %"]
    labelled = ["50", "100", "200", "400", "1,000"]
    for drawn in maps:
        shown = texts(drawn.svg)
        assert [text for text in shown if text in ("8", "12", "20", "32")] == ["8", "12", "20", "32"]
        assert [text for text in shown if text in labelled] == labelled
        assert len([text for text in shown if " to " in text]) == 20
    assert "+8.0" in texts(maps[0].svg) and "+4.0 to +12.0" in texts(maps[0].svg)
    assert charts.focus_map(FocusMap(cells=[])) == []


def test_cells_of_the_map_that_are_significant_after_correction_are_outlined():
    above, below = (
        map_cell(0.08, 0.003, name_sharing_rate=0.0),
        map_cell(-0.08, 0.04, num_documents=12, name_sharing_rate=0.0),
    )
    first, *others = (
        drawn.svg.count('stroke="currentColor" stroke-width="2.5"')
        for drawn in charts.focus_map(whole_map(c50_8_0=above, c50_12_0=below))
    )
    assert (first, others) == (2, [0, 0])


def test_colours_of_the_map_diverge_around_zero_and_are_the_same_in_every_facet():
    steps = [place / 100 for place in range(-20, 21)]
    cells = [
        map_cell(step, num_documents=place, name_sharing_rate=rate)
        for rate in (0.0, 1.0)
        for place, step in enumerate(steps)
    ]
    fills, other = (re.findall(r'fill="(rgb[^"]*)"', drawn.svg) for drawn in charts.focus_map(FocusMap(cells=cells)))
    assert fills == other and len(set(fills)) == 41
    shades = [luminance(fill) for fill in fills]
    assert shades[:21] == sorted(shades[:21]) and shades[20:] == sorted(shades[20:], reverse=True)  # lightest at zero
    drawn = charts.focus_map(FocusMap(cells=cells))[0].svg
    inks = re.findall(r'fill="(black|white)"', drawn)[:41]
    assert all(contrast(fill, ink) >= 4.5 for fill, ink in zip(fills, inks, strict=True))
    small = charts.focus_map(FocusMap(cells=[map_cell(0.001)]))[0].svg
    assert luminance(re.findall(r'fill="(rgb[^"]*)"', small)[0]) > 0.8  # a tenth of a point looks like none


def test_the_main_result_has_the_rows_of_the_short_table_and_fills_what_stands():
    rows = [
        ablation_row(label="vanilla", method="vanilla"),
        ablation_row(0.1, p_corrected=0.2, label="unclear", method="guided", mean=0.41),
        ablation_row(0.1, label="clear", mean=0.52),
        ablation_row(0.1, label="clear", mean=0.73, input="retrieval", group="retrieval at inference"),
        ablation_row(0.1, label="not claimed"),
    ]
    drawn = charts.main_result(table(*rows, claimed=["unclear", "clear"]))
    found = texts(drawn.svg)
    assert {"vanilla: 63.4", "unclear: 41.0", "clear: 52.0", "clear: 73.0", "Reads the full context"} <= set(found)
    assert "not claimed: 63.4" not in found and drawn.title == "Exact match over 12 documents"
    assert drawn.svg.count('fill-opacity="0"') == 1
