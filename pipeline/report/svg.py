"""The drawing kit of the report's charts: values in, SVG out, drawn by Vega-Lite inside vl-convert without a network.

Text and axes have the colour of the page's text (`currentColor`), so that a chart is readable on a light and on a dark
page. Series differ in colour, in symbol, and by the name at the end of their line.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import altair as alt
import numpy as np
import vl_convert
from markupsafe import Markup
from scipy import optimize

from pipeline.common.tables import Row
from pipeline.report import text
from pipeline.runtime.methods import METHODS

OTHER_COLOURS = ("#9c7600", "#00838f", "#a1584b", "#b14a92")
OTHER_SHAPES = ("cross", "triangle-down", "triangle-left", "triangle-right")
ERRORS = {"correct": "#1f8a65", "distraction": "#b14a92", "other": "#7d838a"}

WIDTH, HEIGHT = 330, 220  # px of the plot: two charts side by side on a desk, one on a phone, both legible
FONT_SIZE = 13
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": FONT_SIZE}
_CONFIG = {
    "aria": False,  # the chart as a whole has a title
    "background": "transparent",
    "padding": {"left": 14, "right": 14, "top": 6, "bottom": 4},  # the page's font may be wider than vl-convert's
    "font": "sans-serif",
    "view": {"stroke": None},
    "text": {"fontSize": FONT_SIZE},
    "axis": {
        **_TEXT,
        "titleFontSize": FONT_SIZE,
        "titleFontWeight": "normal",
        "titlePadding": 10,
        "gridColor": "currentColor",
        "gridOpacity": 0.13,
        "domainColor": "currentColor",
        "domainOpacity": 0.5,
        "tickColor": "currentColor",
        "tickOpacity": 0.5,
        "tickCount": 5,
    },
    "axisX": {"grid": False},
    "legend": _TEXT,
}

INKS = {"light": "#1f2328", "dark": "#f0f6fc"}
"""Colour of text in a chart that is a file, by the colour scheme of the page around it."""


class Figure(NamedTuple):
    """A chart and the title above it."""

    title: str
    svg: Markup


class Label(NamedTuple):
    """The title of a chart and the titles of its axes, with units."""

    key: str
    """Unique on the page; prefix of every id in the SVG."""
    title: str
    x: str
    y: str


def curve(label: Label, points: Sequence[Row], *, top: float) -> Figure:
    """Draw means by group, one line and band per series; the y axis goes from 0 to `top`.

    Each point has a series, a group (its place on the x axis), mean, low and high.
    """
    series, groups = _distinct(points, "series"), _distinct(points, "group")
    x = alt.X(
        "group:N",
        sort=groups,
        title=label.x,
        axis=alt.Axis(labelAngle=0),
        scale=alt.Scale(type="point", padding=0.1),
    )
    domain = (0.0, top)
    chart = _chart(points).encode(x=x, color=_colour("series", series))
    ends = [
        point | {"name": point["series"], "value": point["mean"]} for point in points if point["group"] == groups[-1]
    ]
    shapes = _assigned("shape", series, OTHER_SHAPES)
    return draw(
        label,
        chart.mark_area(opacity=0.16).encode(y=_y("low", label, domain), y2="high:Q"),
        chart.mark_line(strokeWidth=2).encode(y=_y("mean", label, domain)),
        chart.mark_point(filled=True, size=60, opacity=1.0).encode(
            y=_y("mean", label, domain),
            shape=alt.Shape("series:N", scale=alt.Scale(domain=series, range=shapes), legend=None),
        ),
        _end_labels(ends, domain).encode(x=x),
    )


def training_curve(label: Label, steps: Sequence[Row]) -> Figure:
    """Draw logged values by optimizer step, one line per series.

    Each step has a series, step, value, and `others`: True draws it dashed beside the series, as the same measure
    between different examples.
    """
    values = [step["value"] for step in steps]
    low, high = min(values), max(values)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    domain = (low - margin if low < margin else max(0.0, low - margin), high + margin)
    last = max(step["step"] for step in steps)
    x = alt.X("step:Q", title=label.x, scale=alt.Scale(domain=[0, last], nice=False))
    ends = {(step["series"], step["others"]): step | {"step": last} for step in steps}
    named = [end | {"name": f"{series}: others" if others else series} for (series, others), end in ends.items()]
    return draw(
        label,
        _chart(steps)
        .mark_line(strokeWidth=1.8, clip=True)
        .encode(
            x=x,
            y=_y("value", label, domain),
            color=_colour("series", _distinct(steps, "series")),
            strokeDash=alt.condition("datum.others", alt.value([5, 3]), alt.value([1, 0])),
            detail="others:N",
        ),
        _end_labels(named, domain).encode(x=x),
    )


def stacked_bars(label: Label, shares: Sequence[Row], part_colours: Mapping[str, str] = ERRORS) -> Figure:
    """Draw one bar per row, its parts in the order of `part_colours`, with the percentage in each part it fits into.

    Each share has a row, a part and percent, 0 to 100.
    """
    rows, parts = _distinct(shares, "row"), list(part_colours)
    colour = alt.Color(
        "part:N",
        scale=alt.Scale(domain=parts, range=list(part_colours.values())),
        legend=alt.Legend(orient="top", title=None, symbolType="square"),
    )
    y = alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=400))
    values = [share | {"order": parts.index(share["part"]), "text": f"{share['percent']:.0f}"} for share in shares]
    chart = _chart(values).encode(y=y, order="order:Q")
    x = alt.X("percent:Q", stack="zero", title=label.x, scale=alt.Scale(domain=[0.0, 100.0]))
    return draw(
        label,
        chart.mark_bar(height=22).encode(x=x, color=colour),
        chart.mark_text(color="white", fontWeight=600).encode(
            x=alt.X("percent:Q", stack="zero", bandPosition=0.5),
            detail="part:N",
            text=alt.condition("datum.percent >= 5", "text:N", alt.value("")),
        ),
        height=34 * len(rows),
    )


def forest_plot(label: Label, effects: Sequence[Row]) -> Figure:
    """Draw differences (or scores) and their intervals beside a zero line, a line each under the heading of its group.

    Each effect has a group, name, method, difference, low, high, and `significant`: True fills its point.
    """
    rows: list[Row] = []
    for group, members in groupby(effects, key=lambda effect: effect["group"]):
        rows += [{"head": group}, *members]
    rows = [row | {"line": f"{number}"} for number, row in enumerate(rows)]
    order = [row["line"] for row in rows]
    # Names are marks, not labels of the axis, because two groups may hold rows of one name.
    y = alt.Y("line:N", sort=order, scale=alt.Scale(domain=order), axis=None)
    low = min(0.0, *(effect["low"] for effect in effects))
    high = max(0.0, *(effect["high"] for effect in effects))
    margin = 0.04 * (high - low) or 1.0
    scale = alt.Scale(domain=[low - margin, high + margin], nice=False)
    methods = _distinct(effects, "method")
    colour = _colour("method", methods, alt.Legend(orient="top", title=None) if len(methods) > 1 else None)
    chart = _chart(row for row in rows if "name" in row).encode(y=y, color=colour)

    def beside(field: str, weight: Literal["bold", "normal"]) -> Any:
        """Write text left of the plot."""
        marks = _chart(row for row in rows if field in row)
        marks = marks.mark_text(align="right", dx=-10, color="currentColor", fontWeight=weight)
        return marks.encode(y=y, x=alt.value(0), text=f"{field}:N")

    return draw(
        label,
        _chart([{"zero": 0.0}])
        .mark_rule(color="currentColor", opacity=0.6, strokeDash=[4, 3])
        .encode(x=alt.X("zero:Q", scale=scale, title=label.x)),
        chart.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title=label.x), x2="high:Q"),
        chart.mark_point(size=60, opacity=1.0, strokeWidth=2).encode(
            x=alt.X("difference:Q", title=label.x, scale=scale, axis=alt.Axis(grid=True)),
            fillOpacity=alt.condition("datum.significant", alt.value(1.0), alt.value(0.0)),
            fill=colour,
        ),
        beside("head", "bold"),
        beside("name", "normal"),
        height=21 * len(order),
    )


def heat_map(
    label: Label, cells: Sequence[Row], columns: Sequence[str], rows: Sequence[str], ramp: Mapping[float, str]
) -> Figure:
    """Draw cells by column (from the left) and row (from the top); `ramp` maps values, in rising order, to colours.

    Each cell has x, y, value, text, `below`: small print under the text, or empty, and `outlined`.
    """
    axis = alt.Axis(labelAngle=0, ticks=False, domain=False, labelPadding=6)

    def band(names: Sequence[str]) -> alt.Scale:
        return alt.Scale(type="band", domain=list(names), paddingInner=0.04, paddingOuter=0.0)

    chart = _chart(cells).encode(
        x=alt.X("x:O", sort=None, title=label.x, axis=axis, scale=band(columns)),
        y=alt.Y("y:O", sort=None, title=label.y, axis=axis, scale=band(rows)),
    )
    fill = alt.Color(
        "value:Q",
        scale=alt.Scale(domain=list(ramp), range=list(ramp.values()), clamp=True, interpolate="rgb"),
        legend=None,
    )
    contrast = "contrast(scale('color', datum.value), '{}')".format
    ink = alt.condition(f"{contrast('black')} >= {contrast('white')}", alt.value("black"), alt.value("white"))
    outline = alt.condition("datum.outlined", alt.value("currentColor"), alt.value(None))
    two_lines = any(cell["below"] for cell in cells)
    return draw(
        label,
        chart.mark_rect(cornerRadius=2, strokeWidth=2.5).encode(color=fill, stroke=outline),
        chart.mark_text(fontWeight=600, dy=-6 if two_lines else 0).encode(text="text:N", color=ink),
        *([chart.mark_text(fontSize=10, dy=9).encode(text="below:N", color=ink)] if two_lines else []),
        height=46 * len(rows),
    )


def standalone(figure: Figure) -> str:
    """Return the chart as the content of a file: its text is dark on a light page and light on a dark one."""
    style = f"svg {{color: {INKS['light']}}} @media (prefers-color-scheme: dark) {{svg {{color: {INKS['dark']}}}}}"
    return str(figure.svg).replace("</title>", f"</title><style>{style}</style>", 1) + "\n"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Place labels between `low` and `high`, at least `gap` apart and nearest to `wanted` (least squares)."""
    steps = gap * np.arange(len(wanted))
    order = np.argsort(wanted, kind="stable")
    fitted = optimize.isotonic_regression(np.asarray(wanted)[order] - steps).x
    places = np.empty(len(wanted))
    places[order] = np.clip(fitted, low, max(low, high - steps[-1])) + steps
    return [float(place) for place in places]


def colours(series: Sequence[str]) -> list[str]:
    """Assign a colour to each name: that of the method, or another one by the order of the names."""
    return _assigned("colour", series, OTHER_COLOURS)


def _distinct(rows: Sequence[Row], column: str) -> list[str]:
    """List the distinct values of a column in their order."""
    return list(dict.fromkeys(row[column] for row in rows))


def _assigned(field: Literal["colour", "shape"], series: Sequence[str], free: Sequence[str]) -> list[str]:
    others = [name for name in series if name not in METHODS]
    return [
        getattr(METHODS[name], field) if name in METHODS else free[others.index(name) % len(free)] for name in series
    ]


def _colour(field: str, names: Sequence[str], legend: alt.Legend | None = None) -> alt.Color:
    return alt.Color(f"{field}:N", scale=alt.Scale(domain=list(names), range=colours(names)), legend=legend)


def _y(field: str, label: Label, domain: tuple[float, float]) -> alt.Y:
    return alt.Y(f"{field}:Q", title=label.y, scale=alt.Scale(domain=list(domain), nice=False))


def _end_labels(ends: Sequence[Row], domain: tuple[float, float]) -> Any:
    """Write the name of each line right of its last point, moved apart where names would touch."""
    low, high = domain
    places = spread([end["value"] for end in ends], (FONT_SIZE + 3) * (high - low) / HEIGHT, low, high)
    marks = _chart(end | {"place": place} for end, place in zip(ends, places, strict=True))
    return marks.mark_text(align="left", dx=10, fontWeight=600).encode(
        y=alt.Y("place:Q", scale=alt.Scale(domain=[low, high], nice=False)),
        text="name:N",
        color=_colour("series", _distinct(ends, "series")),
    )


def _chart(rows: Iterable[Row]) -> Any:
    return alt.Chart(alt.InlineData(values=list(rows)))


def draw(label: Label, *layers: Any, height: int = HEIGHT) -> Figure:
    """Draw altair charts on top of each other; the plot without its axes is WIDTH by `height` px."""
    spec = _visible(alt.layer(*layers).properties(width=WIDTH, height=height).to_dict())
    drawn: str = vl_convert.vegalite_to_svg(spec, vl_version=_VEGA_LITE, config=_CONFIG, allowed_base_urls=[])
    return Figure(label.title, _embedded(drawn, label))


def _visible(spec: Any) -> Any:
    """Replace control characters, in keys too: one of them in a spec makes vl-convert end the whole process."""
    if isinstance(spec, str):
        return text.visible(spec)
    if isinstance(spec, dict):
        return {_visible(key): _visible(value) for key, value in spec.items()}
    return [_visible(item) for item in spec] if isinstance(spec, list) else spec


def _embedded(drawn: str, label: Label) -> Markup:
    """Make the SVG part of a page: it scales with its column, has a title for screen readers, and ids of its own.

    vl-convert numbers ids over the whole process. Ours start from 0 in each chart, so that equal values give equal
    bytes. vl-convert escapes the text of the chart, so the result is safe as markup.
    """
    found = re.fullmatch(r'<svg[^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>(.*)</svg>\s*', drawn, re.DOTALL)
    assert found, "vl-convert draws one svg element with a viewBox from 0"
    width, height, body = found.groups()
    key = re.sub(r"[^\w-]", "-", label.key)
    for number, given in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', body))):
        body = body.replace(f'id="{given}"', f'id="{key}-{number}"').replace(f"url(#{given})", f"url(#{key}-{number})")
    title = html.escape(text.visible(label.title))
    return Markup(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{key}-title" style="max-width:{width}px"><title id="{key}-title">{title}</title>'
        f"{body}</svg>"
    )
