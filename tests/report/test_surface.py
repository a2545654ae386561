"""Heat maps: every cell has its figure, readable on its colour, in the one scale of all maps."""

import re
import xml.etree.ElementTree as ElementTree
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report import surface
from pipeline.report.surface import RAMPS

SVG = "{http://www.w3.org/2000/svg}"
PERCENT = st.floats(0, 100)


def row(method: str, length: int, rate: float, score: float, given: str = "full") -> dict[str, Any]:
    interval = {"mean": score, "low": score - 0.05, "high": score + 0.05}
    opposite = {"mean": 1 - score, "low": 0.95 - score, "high": 1.05 - score}
    return {
        "method": method, "input": given, "num_documents": length, "name_sharing_rate": rate, "num_examples": 8,
        "score": interval, "distraction_rate": opposite,
    }  # fmt: skip


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


ROWS = [
    row(method, length, rate, 0.9 - length / 40 - rate / 4)
    for method in ("focused", "base")
    for rate in (0.25, 0.0, 1.0)
    for length in (12, 4, 8)
]


def test_maps_come_in_the_order_of_the_table_with_one_axis_for_all():
    rows = [*ROWS, row("vanilla", 4, 0.0, 0.5, "retrieval"), row("vanilla", 4, 0.0, 0.5)]
    maps = surface.heat_maps(rows, "score", "Exact match")
    assert [drawn.name for drawn in maps] == ["base", "vanilla", "vanilla + retrieval", "focused"]
    for drawn in maps:
        shown = texts(drawn.svg)
        assert [text for text in shown if text in ("4", "8", "12")] == ["4", "8", "12"]
        assert [text for text in shown if text.endswith(" %")] == ["100 %", "25 %", "0 %"]
        assert f"Exact match: {drawn.name}" in drawn.svg


@pytest.mark.parametrize("measure", RAMPS)
def test_each_cell_has_its_figure_and_interval(measure: surface.Measure):
    drawn = surface.heat_maps(ROWS, measure, "Made")[0]
    for cell in ROWS[:9]:
        found = cell[measure]
        assert f"{100 * found['mean']:.0f}" in texts(drawn.svg)
        assert f"{100 * found['low']:.0f}\N{EN DASH}{100 * found['high']:.0f}" in texts(drawn.svg)


def test_equal_values_have_equal_colours_on_every_map():
    maps = surface.heat_maps([row("base", 4, 0.0, 0.5), row("focused", 4, 0.0, 0.5)], "score", "Made")
    fills = [set(re.findall(r'fill="(#[0-9a-f]{6})"', drawn.svg)) for drawn in maps]
    assert fills[0] == fills[1] and surface.colour(50, "score") in fills[0]


def test_with_many_lengths_the_intervals_are_left_out():
    rows = [row("base", length, 0.0, 0.5) for length in range(1, 9)]
    (drawn,) = surface.heat_maps(rows, "score", "Made")
    assert texts(drawn.svg).count("50") == 8 and "\N{EN DASH}" not in drawn.svg
    assert surface.with_intervals(ROWS) and not surface.with_intervals(rows)


def test_a_missing_cell_is_a_gap_and_equal_rows_give_equal_bytes():
    whole, less = surface.heat_maps(ROWS, "score", "Made"), surface.heat_maps(ROWS[:-1], "score", "Made")
    assert whole == surface.heat_maps(ROWS, "score", "Made")
    assert len(texts(whole[0].svg)) == len(texts(less[0].svg)) + 2
    assert whole[1] == less[1]


def test_names_cannot_be_markup_and_share_no_ids():
    rows = [row(method, 4, 0.0, 0.5) for method in ("<b>", "&b;", "b b", "b-b")]
    maps = surface.heat_maps(rows, "score", "Made")
    ids = [name for drawn in maps for name in re.findall(r'\bid="([^"]+)"', drawn.svg)]
    assert len(ids) == len(set(ids))
    assert all(ElementTree.fromstring(drawn.svg) is not None for drawn in maps)


@pytest.mark.parametrize("measure", RAMPS)
@given(PERCENT, PERCENT)
def test_more_is_darker_and_its_figure_has_contrast(measure: surface.Measure, one: float, other: float):
    low, high = sorted((one, other))
    light, dark = (surface.luminance(surface.colour(percent, measure)) for percent in (low, high))
    assert dark <= light
    fill = surface.colour(one, measure)
    bright, dim = sorted((surface.luminance(fill), surface.luminance(surface.ink(fill))), reverse=True)
    assert (bright + 0.05) / (dim + 0.05) >= 4.5


def test_luminance_of_known_colours():
    assert surface.luminance("#000000") == 0.0
    assert surface.luminance("#ffffff") == pytest.approx(1.0)
    assert surface.luminance("#767676") == pytest.approx(0.1812, abs=1e-4)  # 4.54 to 1 on white
