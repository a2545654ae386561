"""The report's figures: plain values in, SVG text out, drawn by Vega-Lite inside vl-convert, without a network.

Text and axes take the page's colour (`currentColor`), so that a figure reads on a light and on a dark page. Series are
told apart by colour (Okabe and Ito's palette, darkened until it reads on both), shape and a name at the line's end.
"""

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import vl_convert
from scipy import optimize

from pipeline.common.methods import METHODS
from pipeline.report import wording

OTHER_COLOURS = ("#9c7600", "#00838f", "#a1584b", "#b14a92")
OTHER_SHAPES = ("cross", "triangle-down", "triangle-left", "triangle-right")
ERRORS = {"correct": "#1f8a65", "distraction": "#b14a92", "other": "#7d838a"}

WIDTH, HEIGHT = 330, 220  # of the plot in px: two figures side by side on a desk, one on a phone, both legible
FONT_SIZE = 13
_VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
_TEXT = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": FONT_SIZE}
_CONFIG = {
    "aria": False,  # the figure as a whole carries its title
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


class Point(NamedTuple):
    """One point of a curve with its interval; `group` is its place on the x axis."""

    series: str
    group: str
    mean: float
    low: float
    high: float


class Step(NamedTuple):
    """One logged value of a training curve."""

    series: str
    step: int
    value: float
    others: bool = False
    """A companion of the series, drawn dashed: the same measure between different examples."""


class Share(NamedTuple):
    """Part of a bar, 0 to 100."""

    row: str
    part: str
    percent: float


class Label(NamedTuple):
    """What a figure is called and what its axes show, with units."""

    key: str
    """Of the figure, unique on the page; opens every id inside."""
    title: str
    x: str
    y: str


def curve(label: Label, points: Sequence[Point], *, top: float) -> str:
    """Means by group as one line per series with its band; the y axis goes from 0 to `top`."""
    series = list(dict.fromkeys(point.series for point in points))
    groups = list(dict.fromkeys(point.group for point in points))
    domain = (0.0, top)
    place = alt.Scale(type="point", padding=0.1)
    x = alt.X("group:N", sort=groups, title=label.x, axis=alt.Axis(labelAngle=0), scale=place)
    chart = alt.Chart(data(point._asdict() for point in points)).encode(x=x, color=_colour(series))
    mean = _y("mean:Q", label, domain)
    ends = [(point.series, point.series, point.mean) for point in points if point.group == groups[-1]]
    return svg(
        label,
        alt.layer(
            chart.mark_area(opacity=0.16).encode(y=_y("low:Q", label, domain), y2="high:Q"),
            chart.mark_line(strokeWidth=2).encode(y=mean),
            chart.mark_point(filled=True, size=60, opacity=1.0).encode(y=mean, shape=_shape(series)),
            _names(ends, {"group": groups[-1]}, domain).encode(x=x),
        ),
    )


def training_curve(label: Label, steps: Sequence[Step]) -> str:
    """Logged values by optimizer step, one line per series."""
    low, high = min(step.value for step in steps), max(step.value for step in steps)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    domain = (low - margin if low < margin else max(0.0, low - margin), high + margin)
    last = max(step.step for step in steps)
    x = alt.X("step:Q", title=label.x, scale=alt.Scale(domain=[0, last], nice=False))
    lines = (
        alt.Chart(data(step._asdict() for step in steps))
        .mark_line(strokeWidth=1.8, clip=True)
        .encode(
            x=x,
            y=_y("value:Q", label, domain),
            color=_colour(list(dict.fromkeys(step.series for step in steps))),
            strokeDash=alt.condition("datum.others", alt.value([5, 3]), alt.value([1, 0])),
            detail="others:N",
        )
    )
    ends = {(f"{step.series}: others" if step.others else step.series): (step.series, step.value) for step in steps}
    names = [(name, *end) for name, end in ends.items()]
    return svg(label, alt.layer(lines, _names(names, {"step": last}, domain).encode(x=x)))


def stacked_bars(label: Label, shares: Sequence[Share], colours: Mapping[str, str] = ERRORS) -> str:
    """One bar per row, its parts in the order of `colours`, each part with its figure where it fits."""
    rows = list(dict.fromkeys(share.row for share in shares))
    left: dict[str, float] = dict.fromkeys(rows, 0.0)
    values = []
    for share in shares:
        start = left[share.row]
        left[share.row] = start + share.percent
        text = f"{share.percent:.0f}" if share.percent >= 5.0 else ""
        middle = start + share.percent / 2
        values.append({**share._asdict(), "start": start, "end": left[share.row], "middle": middle, "text": text})
    colour = alt.Color(
        "part:N",
        scale=alt.Scale(domain=list(colours), range=list(colours.values())),
        legend=alt.Legend(orient="top", title=None, symbolType="square"),
    )
    y = alt.Y("row:N", sort=rows, title=None, axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=400))
    chart = alt.Chart(data(values)).encode(y=y)
    scale_x = alt.Scale(domain=[0.0, 100.0])
    return svg(
        label,
        alt.layer(
            chart.mark_bar(height=22).encode(
                x=alt.X("start:Q", title=label.x, scale=scale_x), x2="end:Q", color=colour
            ),
            chart.mark_text(color="white", fontWeight=600).encode(x=alt.X("middle:Q", scale=scale_x), text="text:N"),
        ),
        height=34 * len(rows),
    )


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for labels between `low` and `high`: near to `wanted` (least squares), at least `gap` apart."""
    steps = gap * np.arange(len(wanted))
    order = np.argsort(wanted, kind="stable")
    fitted = optimize.isotonic_regression(np.asarray(wanted)[order] - steps).x
    places = np.empty(len(wanted))
    places[order] = np.clip(fitted, low, max(low, high - steps[-1])) + steps
    return [float(place) for place in places]


def colours(series: Sequence[str]) -> list[str]:
    """A colour for each name: fixed for our methods, by order for the others."""
    return _assigned(series, {name: method.colour for name, method in METHODS.items()}, OTHER_COLOURS)


def _assigned(series: Sequence[str], fixed: dict[str, str], free: Sequence[str]) -> list[str]:
    others = [name for name in series if name not in fixed]
    return [fixed.get(name) or free[others.index(name) % len(free)] for name in series]


def _colour(series: Sequence[str]) -> alt.Color:
    return alt.Color("series:N", scale=alt.Scale(domain=list(series), range=colours(series)), legend=None)


def _shape(series: Sequence[str]) -> alt.Shape:
    shapes = _assigned(series, {name: method.shape for name, method in METHODS.items()}, OTHER_SHAPES)
    return alt.Shape("series:N", scale=alt.Scale(domain=list(series), range=shapes), legend=None)


def _y(field: str, label: Label, domain: tuple[float, float]) -> alt.Y:
    return alt.Y(field, title=label.y, scale=alt.Scale(domain=list(domain), nice=False))


def _names(ends: Sequence[tuple[str, str, float]], last: dict[str, Any], domain: tuple[float, float]) -> alt.Chart:
    """Names, each with its series and last value, right of the last points; moved apart where they would touch."""
    low, high = domain
    places = spread([value for _, _, value in ends], (FONT_SIZE + 3) * (high - low) / HEIGHT, low, high)
    rows = [
        {"name": name, "series": series, "place": place, **last}
        for (name, series, _), place in zip(ends, places, strict=True)
    ]
    y = alt.Y("place:Q", scale=alt.Scale(domain=[low, high], nice=False))
    colour = _colour(list(dict.fromkeys(series for _, series, _ in ends)))
    chart: alt.Chart = alt.Chart(data(rows)).mark_text(align="left", dx=10, fontWeight=600)
    return chart.encode(y=y, text="name:N", color=colour)


def data(rows: Iterable[dict[str, Any]]) -> Any:
    """Rows as the inline data of a chart."""
    return alt.InlineData(values=list(rows))


def svg(label: Label, chart: Any, height: int = HEIGHT) -> str:
    """An altair chart as a part of the page, WIDTH by `height` px without its axes."""
    spec = _visible(chart.properties(width=WIDTH, height=height).to_dict())
    drawn: str = vl_convert.vegalite_to_svg(spec, vl_version=_VEGA_LITE, config=_CONFIG, allowed_base_urls=[])
    return _embed(drawn, label)


def _visible(spec: Any) -> Any:
    """Without control characters, keys included: at one of them vl-convert ends the whole process."""
    if isinstance(spec, str):
        return wording.visible(spec)
    if isinstance(spec, dict):
        return {_visible(key): _visible(value) for key, value in spec.items()}
    return [_visible(item) for item in spec] if isinstance(spec, list) else spec


def _embed(drawn: str, label: Label) -> str:
    """The SVG as part of a page: scales with its column, has a name for screen readers, its ids are its own.

    vl-convert counts ids on over the whole process; ours count from 0 in each figure, so that equal values give equal
    bytes.
    """
    found = re.fullmatch(r'<svg[^>]*viewBox="0 0 ([\d.]+) ([\d.]+)"[^>]*>(.*)</svg>\s*', drawn, re.DOTALL)
    assert found, "vl-convert draws one svg element with a viewBox from 0"
    width, height, body = found.groups()
    key = re.sub(r"[^\w-]", "-", label.key)
    for number, given in enumerate(dict.fromkeys(re.findall(r'\bid="([^"]+)"', body))):
        body = body.replace(f'id="{given}"', f'id="{key}-{number}"').replace(f"url(#{given})", f"url(#{key}-{number})")
    title = html.escape(label.title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" '
        f'aria-labelledby="{key}-title" style="max-width:{width}px"><title id="{key}-title">{title}</title>'
        f"{body}</svg>"
    )
