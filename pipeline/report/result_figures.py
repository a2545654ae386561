"""The figures of scores, kinds of error and training curves."""

from collections.abc import Mapping, Sequence

from pipeline.common.curves import CURVES
from pipeline.report import summary, svg
from pipeline.report.summary import Measured
from pipeline.report.svg import Label, Point, Share, Step

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Method -> name of the curve -> (optimizer step, value)."""

Drawn = tuple[Label, str]


def measured_curves(rows: Sequence[Measured], key: str, x: str, measure: str) -> list[Drawn]:
    """Scores by group: one figure for each input, with the same y axis; none where there is one group only."""
    if len({row.group for row in rows}) < 2:
        return []
    top = min(100.0, 100 * max(row.score.high for row in rows) * 1.05 or 100.0)
    drawn: list[Drawn] = []
    for given in dict.fromkeys(row.input for row in rows):
        points = [
            Point(row.method, row.group, *(100 * value for value in row.score)) for row in rows if row.input == given
        ]
        title = "Reading the full context" if given == "full" else f"With {given} at inference"
        label = Label(f"{key}-{given}", title, x, f"{measure[0].upper()}{measure[1:]} (%)")
        drawn.append((label, svg.curve(label, points, top=top)))
    return drawn


def errors(rows: Sequence[Measured]) -> Drawn:
    shares = [
        Share(row.name, part, 100 * rate)
        for row in rows
        for part, rate in zip(svg.ERRORS, (row.correct_rate, row.distraction_rate, row.other_rate), strict=True)
    ]
    label = Label("errors", "Answers by kind of error", "Share of all answers (%)", "")
    return label, svg.stacked_bars(label, shares)


def training(curves: Curves) -> list[Drawn]:
    drawn: list[Drawn] = []
    methods = sorted(curves, key=summary.method_order)
    for curve in CURVES:
        if curve.beside is not None:
            continue
        steps = [
            Step(method, step, value, others=drawn_curve is not curve)
            for drawn_curve in CURVES
            if curve.name in (drawn_curve.name, drawn_curve.beside)
            for method in methods
            for step, value in curves[method].get(drawn_curve.name, ())
        ]
        if steps:
            label = Label(f"train-{curve.name}", curve.title, "Optimizer step", curve.unit)
            drawn.append((label, svg.training_curve(label, steps)))
    return drawn
