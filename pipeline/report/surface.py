"""How hard the context is: heat maps over the number of documents and the share of names that distractors borrow.

One map for each method and input, all of a measure in one colour scale from 0 to 100, the figure written in each cell.
Lightness alone carries the scale, so it reads without colours; the figure is black or white, whichever stands out more.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import altair as alt

from pipeline.report import summary
from pipeline.report import svg as figures

Measure = Literal["score", "distraction_rate"]
Row = Mapping[str, Any]
"""method, input, num_documents, name_sharing_rate (0 to 1), num_examples, and of each Measure {mean, low, high}."""

RAMPS: dict[Measure, tuple[str, str]] = {
    "score": ("#eaf3fb", "#0b3c68"),
    "distraction_rate": ("#faeaf5", "#5f1450"),
}
"""Colours of 0 and of 100; between them straight in sRGB."""
CELL_HEIGHT = 46  # px: a figure and its interval
MOST_WITH_INTERVALS = 6  # columns; in more of them the interval would touch its neighbour's


class Map(NamedTuple):
    """One heat map, and whose it is."""

    name: str
    """As a row of the main table."""
    svg: str


def heat_maps(rows: Sequence[Row], measure: Measure, title: str) -> list[Map]:
    """A map for each method and input, in the order of the main table; all have the same axes.

    Args:
        rows: at most one for each method, input, num_documents and name_sharing_rate; a missing one is a gap.
        title: of the measure, for the names of the figures.
    """
    lengths = sorted({row["num_documents"] for row in rows})
    rates = sorted({row["name_sharing_rate"] for row in rows}, reverse=True)
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["method"], row["input"]), []).append(row)
    maps = []
    ordered = sorted(found, key=lambda key: (summary.method_order(key[0]), key[1] != "full", key[1]))
    for number, (method, given) in enumerate(ordered):
        name = summary.row_name(method, given)
        label = figures.Label(
            f"surface-{measure}-{number}", f"{title}: {name}", "Documents in the context", "Distractors sharing a name"
        )
        maps.append(Map(name, _heat_map(label, found[method, given], measure, lengths, rates)))
    return maps


def with_intervals(rows: Sequence[Row]) -> bool:
    """The maps have room for them."""
    return len({row["num_documents"] for row in rows}) <= MOST_WITH_INTERVALS


def _heat_map(
    label: figures.Label, rows: Sequence[Row], measure: Measure, lengths: Sequence[int], rates: Sequence[float]
) -> str:
    cells = [
        {
            "length": str(row["num_documents"]),
            "rate": _rate(row["name_sharing_rate"]),
            "fill": (fill := colour(100 * row[measure]["mean"], measure)),
            "ink": ink(fill),
            "text": f"{100 * row[measure]['mean']:.0f}",
            "interval": f"{100 * row[measure]['low']:.0f}\N{EN DASH}{100 * row[measure]['high']:.0f}",
        }
        for row in rows
    ]
    x = alt.X("length:O", sort=None, title=label.x, axis=_axis(), scale=_places(map(str, lengths)))
    y = alt.Y("rate:O", sort=None, title=label.y, axis=_axis(), scale=_places(map(_rate, rates)))
    chart = alt.Chart(figures.data(cells)).encode(x=x, y=y)
    ink_of = alt.Color("ink:N", scale=None)
    roomy = len(lengths) <= MOST_WITH_INTERVALS
    layers = [
        chart.mark_rect(cornerRadius=2).encode(color=alt.Color("fill:N", scale=None)),
        chart.mark_text(fontWeight=600, dy=-6 if roomy else 0).encode(text="text:N", color=ink_of),
    ]
    if roomy:
        layers.append(chart.mark_text(fontSize=10, dy=9).encode(text="interval:N", color=ink_of))
    return figures.svg(label, alt.layer(*layers), height=CELL_HEIGHT * len(rates))


def colour(percent: float, measure: Measure) -> str:
    """Of a cell, as #rrggbb; percent from 0 to 100."""
    share = min(1.0, max(0.0, percent / 100))
    low, high = (_channels(end) for end in RAMPS[measure])
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(low, high, strict=True))


def ink(fill: str) -> str:
    """Black or white, whichever has the higher contrast on `fill` (WCAG 2: always above 4.5)."""
    light = luminance(fill)
    return "#000000" if (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) else "#ffffff"


def luminance(fill: str) -> float:
    """Relative luminance of #rrggbb, from 0 to 1 (WCAG 2)."""
    linear = [
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in (channel / 255 for channel in _channels(fill))
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def _channels(fill: str) -> list[int]:
    return [int(fill[place : place + 2], 16) for place in (1, 3, 5)]


def _axis() -> alt.Axis:
    return alt.Axis(labelAngle=0, ticks=False, domain=False, labelPadding=6)


def _rate(share: float) -> str:
    return f"{100 * share:g} %"


def _places(names: Any) -> alt.Scale:
    return alt.Scale(type="band", domain=list(names), paddingInner=0.04, paddingOuter=0.0)
