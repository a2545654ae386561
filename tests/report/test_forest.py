"""The forest plot: every row under its group, at its place on the axis, zero among them."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from pipeline.report import forest
from pipeline.report.svg import Label
from tests.report import test_claims

SVG = "{http://www.w3.org/2000/svg}"
LABEL = Label("ablations", "Difference to vanilla", "Points", "")


def drawn(*effects: forest.Effect) -> ElementTree.Element:
    return ElementTree.fromstring(forest.forest(LABEL, effects))


def effect(group: str, name: str, difference: float, stands: bool = True, method: str = "focused") -> forest.Effect:
    return forest.Effect(group, name, method, difference, difference - 2, difference + 2, stands)


def rules(svg: ElementTree.Element) -> list[tuple[float, float, float]]:
    """Of every drawn interval: y, left and right end, in px."""
    found = []
    for group in svg.iter(f"{SVG}g"):
        if "mark-rule role-mark" in group.attrib.get("class", ""):
            for line in group.iter(f"{SVG}line"):
                x, y = map(float, re.findall(r"-?[\d.]+", line.attrib["transform"]))
                found.append((y, x, x + float(line.attrib["x2"])))
    return found


def test_rows_stand_under_their_groups_in_order_and_names_may_come_twice():
    svg = drawn(effect("main", "focused", 3.0), effect("top-k", "1", -1.0), effect("top-k", "focused", 3.0))
    places = {}
    for text in svg.iter(f"{SVG}text"):
        if text.text in ("main", "top-k", "1", "focused"):
            height = float(re.findall(r"-?[\d.]+", text.attrib["transform"])[1])
            places.setdefault(text.text, []).append(height)
    order = [places["main"][0], places["focused"][0], places["top-k"][0], places["1"][0], places["focused"][1]]
    assert order == sorted(order) and len(set(order)) == 5


def test_intervals_are_as_long_as_they_are_and_zero_is_inside():
    svg = drawn(effect("g", "a", 5.0), effect("g", "b", 9.0, stands=False))
    zero, *intervals = rules(svg)
    (_, a_low, a_high), (_, b_low, b_high) = sorted(intervals)
    assert a_high - a_low == pytest.approx(b_high - b_low)
    per_point = (a_high - a_low) / 4
    assert (b_low - a_low) / per_point == pytest.approx(4.0)
    assert (a_low - zero[1]) / per_point == pytest.approx(3.0)  # 0 lies three points left of 5 - 2


def test_what_does_not_stand_is_hollow():
    svg = drawn(effect("g", "a", 5.0), effect("g", "b", 1.0, stands=False))
    opacities = [
        float(path.attrib.get("fill-opacity", 1.0))
        for group in svg.iter(f"{SVG}g")
        if "mark-symbol role-mark" in group.attrib.get("class", "")
        for path in group.iter(f"{SVG}path")
    ]
    assert sorted(opacities) == [0.0, 1.0]


def test_names_are_text_and_equal_effects_equal_bytes():
    hostile = '</text><script>"\x00'
    svg = drawn(effect(hostile, hostile, 1.0))
    assert not list(svg.iter(f"{SVG}script"))
    assert '</text><script>"␀' in "".join(svg.itertext())
    assert forest.forest(LABEL, [effect("g", "a", 1.0)]) == forest.forest(LABEL, [effect("g", "a", 1.0)])


def test_effects_are_the_rows_that_are_compared_in_points():
    table = test_claims.table(test_claims.row(method="vanilla"), test_claims.row(0.05, 0.05), test_claims.row(0.1))
    assert [(one.difference, one.stands) for one in forest.effects(table)] == [(5.0, False), (10.0, True)]
