"""The forest plot: the ablation rows' differences to their reference and intervals, by group, beside a zero line."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import altair as alt

from pipeline.report import svg, wording
from pipeline.report.ablation_table import Table
from pipeline.report.svg import Label

ROW_HEIGHT = 21  # px


class Effect(NamedTuple):
    """One line of the plot, in points."""

    group: str
    name: str
    method: str
    difference: float
    low: float
    high: float
    stands: bool
    """After correction; drawn filled, else hollow."""


def effects(table: Table) -> list[Effect]:
    """Of all rows that are compared with another, in the order of the table."""
    return [
        Effect(
            row.group,
            row.label if row.reference is None else f"{row.label} (to {table.label_of(row.reference)})",
            row.method,
            100 * found.difference,
            100 * found.low,
            100 * found.high,
            found.p_corrected < wording.SIGNIFICANCE,
        )
        for row in table.rows
        if (found := row.to_reference) is not None
    ]


def forest(label: Label, effects: Sequence[Effect]) -> str:
    """One line per effect under the heading of its group; the x axis holds zero and every interval."""
    heads, names, lines, order = [], [], [], []
    for place, (group, effect) in enumerate(_places(effects)):
        order.append(f"{place}")
        if effect is None:
            heads.append({"place": order[-1], "text": group})
        else:
            names.append({"place": order[-1], "text": effect.name})
            lines.append({"place": order[-1], **effect._asdict()})
    # Names are marks, not labels of the axis: two groups may hold rows of one name.
    y = alt.Y("place:N", sort=order, scale=alt.Scale(domain=order), axis=None)
    low = min(0.0, *(effect.low for effect in effects))
    high = max(0.0, *(effect.high for effect in effects))
    margin = 0.04 * (high - low) or 1.0
    scale = alt.Scale(domain=[low - margin, high + margin], nice=False)
    x = alt.X("difference:Q", title=label.x, scale=scale, axis=alt.Axis(grid=True))
    methods = list(dict.fromkeys(effect.method for effect in effects))
    colour = alt.Color(
        "method:N",
        scale=alt.Scale(domain=methods, range=svg.colours(methods)),
        legend=alt.Legend(orient="top", title=None) if len(methods) > 1 else None,
    )
    chart = alt.Chart(svg.data(lines)).encode(y=y, color=colour)
    return svg.svg(
        label,
        alt.layer(
            alt.Chart(svg.data([{"zero": 0.0}]))
            .mark_rule(color="currentColor", opacity=0.6, strokeDash=[4, 3])
            .encode(x=alt.X("zero:Q", scale=scale, title=label.x)),
            chart.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", scale=scale, title=label.x), x2="high:Q"),
            chart.mark_point(size=60, opacity=1.0, strokeWidth=2).encode(
                x=x,
                fillOpacity=alt.condition("datum.stands", alt.value(1.0), alt.value(0.0)),
                fill=colour,
            ),
            _texts(heads, y, "bold"),
            _texts(names, y, "normal"),
        ),
        height=ROW_HEIGHT * len(order),
    )


def _places(effects: Sequence[Effect]) -> Iterator[tuple[str, Effect | None]]:
    """Each line of the plot from the top; None: the heading of a group."""
    group = None
    for effect in effects:
        if effect.group != group:
            group = effect.group
            yield group, None
        yield group, effect


def _texts(rows: list[dict[str, Any]], y: alt.Y, weight: Literal["bold", "normal"]) -> alt.Chart:
    """Left of the plot."""
    marks = alt.Chart(svg.data(rows)).mark_text(align="right", dx=-10, color="currentColor", fontWeight=weight)
    chart: alt.Chart = marks.encode(y=y, x=alt.value(0), text="text:N")
    return chart
