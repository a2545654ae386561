"""The tables of what analyze found; what a file lacks is a gap, not an error."""

from collections.abc import Mapping
from typing import Any

from pipeline.report import wording
from pipeline.report.analysis_figures import in_order
from pipeline.report.grids import Grid

MATCHING = {
    "own": "Own question",
    "shuffled": "Shuffled questions",
    "one_question": "One for all",
    "same_context": "Same context",
}
OUTCOMES = {
    "both_right": "Both right",
    "only_full_right": "Only full view right",
    "only_masked_right": "Only masked view right",
    "both_wrong": "Both wrong",
}
SLOPES = {
    ("score", "slope"): "Score, first to last",
    ("score", "edge_slope"): "Score, middle to ends",
    ("gold", "slope"): "Attention to gold, first to last",
    ("gold", "edge_slope"): "Attention to gold, middle to ends",
}

Values = Mapping[str, Any]


def matching(analysis: Values) -> Grid:
    """How often the views match, and in the last row by chance."""
    found = {method: of["matching"] for method, of in in_order(analysis.get("methods", {})) if of.get("matching")}
    if not found:
        return Grid([], [])
    rows = [(method, [_share(of[name]) for name in MATCHING]) for method, of in found.items()]
    chance = [wording.percent(next(iter(found.values()))[name]["chance"]) for name in MATCHING]
    return Grid(list(MATCHING.values()), [*rows, ("by chance", chance)])


def outcomes(analysis: Values) -> Grid:
    """Which of the two views are answered rightly."""
    found = {method: of["outcomes"] for method, of in in_order(analysis.get("methods", {})) if of.get("outcomes")}
    rows = [(method, [_share(of[name]) for name in OUTCOMES]) for method, of in found.items()]
    return Grid(list(OUTCOMES.values()), rows) if rows else Grid([], [])


def slopes(analysis: Values) -> Grid:
    """Of the score, for every method that has answers, and of the attention to gold where it was measured."""
    looked = {method: of.get("attention") or {} for method, of in analysis.get("methods", {}).items()}
    rows: list[tuple[str, list[str]]] = []
    for method, of in in_order(analysis.get("answers", {})):
        places = {"score": of["position"], "gold": looked.get(method, {}).get("by_gold_position", {}).get("gold", {})}
        rows.append((method, [_change(places[name].get(slope)) for name, slope in SLOPES]))
    if all(cell == wording.NONE for _, cells in rows for cell in cells):
        return Grid([], [])
    return Grid(list(SLOPES.values()), rows)


def reach(analysis: Values) -> Grid:
    """Where windows cut gold tokens off, by layer: the same for every method. Empty where they do not."""
    looked = [of["attention"] for of in analysis.get("methods", {}).values() if of.get("attention")]
    if not looked or not any(layer["gold_out_of_reach"] for layer in looked[0]["layers"]):
        return Grid([], [])
    rows = [
        (
            str(layer["layer"]),
            [
                wording.NONE if layer["window"] is None else f"{layer['window']:,}",
                wording.percent(layer["gold_out_of_reach"]),
                f"{layer['num_examples']:,}",
            ],
        )
        for layer in looked[0]["layers"]
    ]
    return Grid(["Window, tokens", "Gold tokens out of reach", "Examples left"], rows)


def _share(interval: Values) -> str:
    low, high = wording.percent(interval["low"]), wording.percent(interval["high"])
    return f"{wording.percent(interval['mean'])} [{low}, {high}]"


def _change(interval: Values | None) -> str:
    if interval is None:
        return wording.NONE
    low, high = wording.points(interval["low"]), wording.points(interval["high"])
    return f"{wording.points(interval['mean'])} [{low}, {high}]"
