"""Drawings: they say what they are given, scale, escape their text, share no ids, and are the same bytes each time."""

import re
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.common.tables import Row
from pipeline.report.svg import (
    ERRORS,
    INKS,
    OTHER_COLOURS,
    Label,
    colours,
    curve,
    forest_plot,
    spread,
    stacked_bars,
    standalone,
    training_curve,
)
from pipeline.runtime.methods import METHODS
from tests.report.contrast import contrast

SVG = "{http://www.w3.org/2000/svg}"
LABEL = Label("made", "A title", "Documents", "Exact match (%)")
POINTS = [
    {"series": series, "group": group, "mean": mean, "low": mean - 5, "high": mean + 5}
    for series, start in (("base", 50), ("vanilla", 80))
    for group, mean in (("4", start), ("12", start - 30))
]
STEPS = [{"series": "focused", "step": step, "value": 1 / step, "others": False} for step in range(1, 9)]
STEPS += [{"series": "focused", "step": step, "value": 0.1, "others": True} for step in range(1, 9)]
SHARES = [
    {"row": "base", "part": part, "percent": percent}
    for part, percent in (("correct", 60.0), ("distraction", 37.0), ("other", 3.0))
]


def drawings(label: Label = LABEL) -> list[str]:
    return [
        curve(label, POINTS, top=100.0).svg,
        training_curve(label, STEPS).svg,
        stacked_bars(label, SHARES).svg,
    ]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_every_drawing_scales_with_its_column_and_has_a_title_for_screen_readers():
    for svg in drawings():
        root = ElementTree.fromstring(svg)
        assert "width" not in root.attrib and "height" not in root.attrib
        assert re.fullmatch(r"0 0 [\d.]+ [\d.]+", root.attrib["viewBox"])
        title = root.find(f"{SVG}title")
        assert title is not None and title.text == "A title"
        assert (root.attrib["role"], root.attrib["aria-labelledby"]) == ("img", title.attrib["id"])


def test_equal_values_give_equal_bytes():
    assert drawings() == drawings()


def test_drawings_share_no_ids_and_refer_to_their_own():
    seen: set[str] = set()
    for key in ("one", "two"):
        for svg in drawings(LABEL._replace(key=key))[:2]:
            ids = re.findall(r'\bid="([^"]+)"', svg)
            assert len(ids) == len(set(ids))
            assert set(re.findall(r"url\(#([^)]+)\)", svg)) <= set(ids)
            seen |= set(ids)
        assert f"{key}-title" in seen
    assert all(found.startswith(("one-", "two-")) for found in seen)


def test_a_curve_names_its_axes_its_groups_and_each_line():
    found = texts(drawings()[0])
    assert {"Documents", "Exact match (%)", "4", "12", "base", "vanilla", "100"} <= set(found)
    assert found.index("4") < found.index("12")  # as given, not by the alphabet


def test_a_training_curve_names_the_companion_of_its_line_and_dashes_it():
    svg = drawings()[1]
    assert {"focused", "focused: others", "Documents"} <= set(texts(svg))
    assert 'stroke-dasharray="5,3"' in svg


def test_a_bar_shows_each_share_that_has_room_for_its_figure():
    found = texts(drawings()[2])
    assert {"60", "37", "base", "correct", "distraction", "other"} <= set(found)
    assert "3" not in found


def test_names_are_text_and_never_markup():
    name = '</text><script>alert("1")</script>&amp;'
    svgs = [
        curve(LABEL, [point | {"series": name} for point in POINTS[:2]], top=100.0).svg,
        training_curve(LABEL, [step | {"series": name} for step in STEPS]).svg,
        stacked_bars(LABEL, [share | {"row": name} for share in SHARES]).svg,
        curve(LABEL._replace(title=name, x=name, key='"><script>'), POINTS, top=100.0).svg,
    ]
    for svg in svgs:
        root = ElementTree.fromstring(svg)  # still one well-formed element
        assert not list(root.iter(f"{SVG}script"))
        assert name in "".join(root.itertext())


def test_figures_take_the_colour_of_the_page_and_load_nothing():
    for svg in drawings():
        assert 'fill="currentColor"' in svg
        assert re.findall(r"https?://[^\"]+", svg) == ["http://www.w3.org/2000/svg"]
        assert not re.search(r"\b(href|src)=", svg)


def test_methods_keep_their_colours_and_others_get_their_own():
    assert colours(["focused", "x", "base", "y"]) == [
        METHODS["focused"].colour, OTHER_COLOURS[0], METHODS["base"].colour, OTHER_COLOURS[1],
    ]  # fmt: skip


@pytest.mark.parametrize("background", ["#ffffff", "#15181b"])
@pytest.mark.parametrize("colour", [*(method.colour for method in METHODS.values()), *OTHER_COLOURS, *ERRORS.values()])
def test_colours_stand_out_on_a_light_and_on_a_dark_page(colour: str, background: str):
    assert contrast(colour, background) >= 3.0  # WCAG 2.1, 1.4.11: graphical objects


def test_labels_that_do_not_touch_stay_where_they_are():
    assert spread([10.0, 90.0, 50.0], gap=5.0, low=0.0, high=100.0) == [10.0, 90.0, 50.0]


def test_labels_that_touch_move_apart_evenly_and_keep_their_order():
    assert spread([50.0, 50.0], gap=10.0, low=0.0, high=100.0) == [45.0, 55.0]
    assert spread([100.0, 99.0], gap=10.0, low=0.0, high=100.0) == [100.0, 90.0]
    assert spread([0.0, 0.0, 0.0], gap=10.0, low=0.0, high=100.0) == [0.0, 10.0, 20.0]


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8), st.floats(0, 12))
def test_labels_are_a_gap_apart_inside_the_plot_and_in_order(wanted: list[float], gap: float):
    places = spread(wanted, gap, 0.0, 100.0)
    ordered = sorted(places)
    assert all(above - below >= gap - 1e-6 for below, above in pairwise(ordered))
    assert -1e-6 <= ordered[0] and ordered[-1] <= 100.0 + 1e-6
    assert all(
        places[i] <= places[j] + 1e-6 for i in range(len(wanted)) for j in range(len(wanted)) if wanted[i] < wanted[j]
    )


def test_control_characters_in_names_become_pictures_and_end_no_process():
    points = [
        {"series": f"a\x00\x1b{number}", "group": group, "mean": 50.0, "low": 40.0, "high": 60.0}
        for number in (1, 2)
        for group in ("1", "5\x07")
    ]
    drawn = curve(Label("k", "T", "x", "y"), points, top=100.0).svg
    assert "a␀␛1" in drawn and "5␇" in drawn


def forest(*effects: Row) -> ElementTree.Element:
    return ElementTree.fromstring(forest_plot(LABEL, effects).svg)


def effect(group: str, name: str, difference: float, significant: bool = True, method: str = "focused") -> Row:
    return {
        "group": group, "name": name, "method": method, "difference": difference, "low": difference - 2,
        "high": difference + 2, "significant": significant,
    }  # fmt: skip


def rules(svg: ElementTree.Element) -> list[tuple[float, float, float]]:
    """y, left and right end of every drawn interval, in px."""
    found = []
    for group in svg.iter(f"{SVG}g"):
        if "mark-rule role-mark" in group.attrib.get("class", ""):
            for line in group.iter(f"{SVG}line"):
                x, y = map(float, re.findall(r"-?[\d.]+", line.attrib["transform"]))
                found.append((y, x, x + float(line.attrib["x2"])))
    return found


def test_rows_stand_under_their_groups_in_order_and_names_may_come_twice():
    svg = forest(effect("main", "focused", 3.0), effect("top-k", "1", -1.0), effect("top-k", "focused", 3.0))
    places = {}
    for text in svg.iter(f"{SVG}text"):
        if text.text in ("main", "top-k", "1", "focused"):
            height = float(re.findall(r"-?[\d.]+", text.attrib["transform"])[1])
            places.setdefault(text.text, []).append(height)
    order = [places["main"][0], places["focused"][0], places["top-k"][0], places["1"][0], places["focused"][1]]
    assert order == sorted(order) and len(set(order)) == 5


def test_intervals_are_as_long_as_they_are_and_zero_is_inside():
    svg = forest(effect("g", "a", 5.0), effect("g", "b", 9.0, significant=False))
    zero, *intervals = rules(svg)
    (_, a_low, a_high), (_, b_low, b_high) = sorted(intervals)
    assert a_high - a_low == pytest.approx(b_high - b_low)
    per_point = (a_high - a_low) / 4
    assert (b_low - a_low) / per_point == pytest.approx(4.0)
    assert (a_low - zero[1]) / per_point == pytest.approx(3.0)  # 0 lies three points left of 5 - 2


def test_what_is_not_significant_is_hollow():
    svg = forest(effect("g", "a", 5.0), effect("g", "b", 1.0, significant=False))
    opacities = [
        float(path.attrib.get("fill-opacity", 1.0))
        for group in svg.iter(f"{SVG}g")
        if "mark-symbol role-mark" in group.attrib.get("class", "")
        for path in group.iter(f"{SVG}path")
    ]
    assert sorted(opacities) == [0.0, 1.0]


def test_names_in_a_forest_plot_are_text_and_equal_effects_give_equal_bytes():
    hostile = '</text><script>"\x00'
    svg = forest(effect(hostile, hostile, 1.0))
    assert not list(svg.iter(f"{SVG}script"))
    assert '</text><script>"␀' in "".join(svg.itertext())
    assert forest_plot(LABEL, [effect("g", "a", 1.0)]) == forest_plot(LABEL, [effect("g", "a", 1.0)])


def test_a_chart_that_is_a_file_has_readable_text_on_light_and_dark_pages():
    drawn = curve(LABEL, POINTS, top=100.0)
    found = standalone(drawn)
    assert "currentColor" in found and texts(found) == texts(drawn.svg)
    light, dark = found.split("@media (prefers-color-scheme: dark)")
    assert INKS["light"] in light and INKS["dark"] in dark
    for ink, pages in ((INKS["light"], ("#ffffff", "#f6f8fa")), (INKS["dark"], ("#0d1117", "#212830"))):
        assert all(contrast(ink, page) >= 7 for page in pages)
