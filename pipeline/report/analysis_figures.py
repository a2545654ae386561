"""The figures of what analyze found: attention by layer and by place of the gold document, kinds of answers."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import summary, svg
from pipeline.report.svg import Label, Point, Share

EVEN = "if even"
"""Attention that looks at all tokens alike, in place of a method's name."""
ATTENTION = {
    "gold": "Attention to the gold chunks",
    "namesake": "Attention to their namesakes",
    "other": "Attention to other chunks",
}
KINDS = {
    "correct": ("correct", svg.ERRORS["correct"]),
    "distraction": ("in a distractor", svg.ERRORS["distraction"]),
    "in_gold": ("in gold", "#9c7600"),
    "in_context": ("in the context", "#c08a00"),
    "hallucinated": ("nowhere", "#7d838a"),
    "no_answer": ("no answer", "#7566d6"),
    "wrong_option": ("wrong option", "#a1584b"),
}

Values = Mapping[str, Any]
Drawn = list[tuple[Label, str]]


def attention(analysis: Values) -> Drawn:
    """One curve per role by layer, and the layers' mean to gold by its place; none without known gold chunks."""
    found = {method: of["attention"] for method, of in in_order(analysis.get("methods", {})) if of.get("attention")}
    if not found:
        return []
    even = next(iter(found.values()))["token_shares"]
    by_role = {
        role: [
            *(
                Point(EVEN, str(layer["layer"]), *[100 * even[role]] * 3)
                for layer in next(iter(found.values()))["layers"]
            ),
            *(
                _point(method, str(layer["layer"]), layer[role])
                for method, of in found.items()
                for layer in of["layers"]
                if layer[role] is not None
            ),
        ]
        for role in ATTENTION
    }
    placed = [
        _point(method, _places(part), part)
        for method, of in found.items()
        for part in of["by_gold_position"]["gold"]["parts"]
    ]
    top = _top([point for points in by_role.values() for point in points])
    y = "Attention (%)"
    drawn: Drawn = []
    for role, points in by_role.items():
        label = Label(f"attention-{role}", ATTENTION[role], "Layer", y)
        drawn.append((label, svg.curve(label, points, top=top)))
    if len({point.group for point in placed}) > 1:
        title, x = "Attention to gold by its place, mean of layers", "Place of the gold document (1 = first)"
        label = Label("attention-position", title, x, y)
        drawn.append((label, svg.curve(label, placed, top=_top(placed))))
    return drawn


def kinds(analysis: Values) -> Drawn:
    """One bar per method, of the kinds that there are."""
    found = {method: of["errors"] for method, of in in_order(analysis.get("answers", {}))}
    present = [kind for kind in KINDS if any(of[kind]["mean"] > 0 for of in found.values())]
    if not present:
        return []
    shares = [Share(method, KINDS[kind][0], 100 * of[kind]["mean"]) for method, of in found.items() for kind in present]
    label = Label(
        "kinds", "Answers on the full context, and where the wrong ones stand", "Share of all answers (%)", ""
    )
    return [(label, svg.stacked_bars(label, shares, dict(KINDS[kind] for kind in present)))]


def in_order(methods: Values) -> list[tuple[str, Any]]:
    """Methods with their figures, in the order of every table."""
    return sorted(methods.items(), key=lambda item: summary.method_order(item[0]))


def _point(method: str, group: str, interval: Values) -> Point:
    return Point(method, group, *(100 * interval[name] for name in ("mean", "low", "high")))


def _places(part: Values) -> str:
    first, last = part["first_position"] + 1, part["last_position"] + 1
    return f"{first}" if first == last else f"{first}\N{EN DASH}{last}"


def _top(points: list[Point]) -> float:
    return min(100.0, 1.05 * max(point.high for point in points)) or 100.0
