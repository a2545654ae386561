"""The page's figures: which numbers are drawn, in which order, and what titles and axes say. svg.py draws them.

To add a figure, write a function here and call it in a template of templates/.
"""

from collections.abc import Mapping, Sequence

from pipeline.common.tables import Row
from pipeline.evaluation.score import MEASURES
from pipeline.report import ablation_table, page_tables, svg, text
from pipeline.report.ablation_table import AblationTable
from pipeline.report.focus_map import FocusMap
from pipeline.report.summary import Measured, Range, Summary, in_order, row_name, row_order
from pipeline.report.svg import Figure, Label
from pipeline.report.text import Values
from pipeline.runtime.curves import CURVES

Curves = Mapping[str, Mapping[str, Sequence[tuple[int, float]]]]
"""Method -> name of the curve -> (optimizer step, value)."""

INPUTS = {
    "full": "Reads the full context",
    "retrieval": "Reads the best chunks alone",
    "longbench": "Reads the chunks of LongBench's retrieval",
}
"""Input -> what the model reads, in the order of the figures of results."""
UNIFORM = "uniform"
"""Series of attention that is equal for all tokens."""
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
"""Kind of an answer in analysis.json -> its name and colour."""
HEAT: dict[str, dict[float, str]] = {
    "score": {0: "#eaf3fb", 100: "#0b3c68"},
    "distraction_rate": {0: "#faeaf5", 100: "#5f1450"},
}
"""Measure of a heat map -> the colours of 0 and of 100 percent; colours between them are linear in sRGB."""
DIVERGING = ("#8a3d00", "#f6f5f2", "#0b4f82")
"""Colours of the lowest difference, of zero and of the highest: those of vanilla and focused, darkened."""
LEAST_LIMIT = 5.0
"""Points at which the colours of differences end, where no difference is larger."""
MOST_WITH_INTERVALS = 6
"""Number of columns of a heat map above which its intervals would touch each other."""


def scores(rows: Sequence[Measured], key: str, x: str, measure: str) -> list[Figure]:
    """Draw scores by group, a figure for each input, all with the same y axis; none if there is only one group."""
    if len({row.group for row in rows}) < 2:
        return []
    top = _top([100 * row.score.high for row in rows])
    figures = []
    for given in dict.fromkeys(row.input for row in rows):
        points = [_point(row.method, row.group, row.score._asdict()) for row in rows if row.input == given]
        title = "Reading the full context" if given == "full" else f"With {given} at inference"
        label = Label(f"{key}-{given}", title, x, f"{text.capital(measure)} (%)")
        figures.append(svg.curve(label, points, top=top))
    return figures


def errors(rows: Sequence[Measured]) -> Figure:
    """Draw the shares of correct answers, distraction errors and other errors."""
    shares = [
        {"row": row.name, "part": part, "percent": 100 * rate}
        for row in rows
        for part, rate in zip(svg.ERRORS, (row.correct_rate, row.distraction_rate, row.other_rate), strict=True)
    ]
    return svg.stacked_bars(Label("errors", "Answers by kind of error", "Share of all answers (%)", ""), shares)


def training(curves: Curves) -> list[Figure]:
    """Draw the training curves, a figure for each entry of runtime/curves.py that is not drawn beside another."""
    figures = []
    for curve in CURVES:
        steps = [
            {"series": method, "step": step, "value": value, "others": drawn is not curve}
            for drawn in CURVES
            if drawn is curve or drawn.beside == curve.name
            for method, found in in_order(curves)
            for step, value in found.get(drawn.name, ())
        ]
        if steps and curve.beside is None:
            label = Label(f"train-{curve.name}", curve.title, "Optimizer step", curve.unit)
            figures.append(svg.training_curve(label, steps))
    return figures


def retrieval(quality: Values, summary: Summary, split: str) -> list[Figure]:
    """Draw how often the k best-scored chunks hold gold or an answer, at the longest contexts of the split."""
    found = quality.get("splits", {}).get(split)
    if found is None:
        return []
    longest = found["by_num_documents"].get(str(summary.lengths[-1].high), found["all"])
    points = [
        _point(name, k, _exact(share))
        for name, measure in (("gold chunk", "recall"), ("an answer", "answer_retention"))
        for k, share in sorted(longest[measure].items(), key=lambda item: int(item[0]))
        if share is not None
    ]
    y = f"{split.capitalize()} examples (%)"
    label = Label("retrieval", "What the best-scored chunks hold", "Best-scored chunks kept (k)", y)
    return [svg.curve(label, points, top=100.0)] if points else []


def validation(found: Values, settings: Values, split: str) -> list[Figure]:
    """Draw each retriever's recall of gold chunks: by k at this run's chunk size, and by size for the best 5."""
    rows = [row for row in found.get("rows", []) if row["split"] == split and row["recall_interval"].get("5")]
    if not rows:
        return []
    words = settings.get("chunk", {}).get("words")
    used = found["measured_as"].get(str(words), rows[0]["chunk_words"])
    named = {group[0]: text.listed(group) for group in page_tables.equal_sizes(found)}
    shown = words if str(words) in found["measured_as"] else named.get(used, used)
    sizes = sorted({row["chunk_words"] for row in rows})

    def point(row: Values, k: str, group: str) -> Row:
        low, high = row["recall_interval"][k]
        return _point(row["retriever"], group, {"mean": row["recall"][k], "low": low, "high": high})

    y = f"Gold chunk found, {split} (%)"
    by_k = [point(row, k, k) for row in rows if row["chunk_words"] == used for k in sorted(row["recall"], key=int)]
    label = Label("validation-k", f"Retrievers compared, chunks of {shown} words", "Best-scored chunks (k)", y)
    figures = [svg.curve(label, by_k, top=100.0)]
    if len(sizes) > 1:
        by_size = [
            point(row, "5", named.get(size, str(size))) for size in sizes for row in rows if row["chunk_words"] == size
        ]
        label = Label("validation-words", "Best 5 chunks, by their size", "Words of a chunk", y)
        figures.append(svg.curve(label, by_size, top=100.0))
    return figures


def attention(analysis: Values) -> list[Figure]:
    """Draw attention by layer for each role of chunk, and to gold by its position; none if no gold chunk is known."""
    found = {method: of["attention"] for method, of in in_order(analysis.get("methods", {})) if of.get("attention")}
    if not found:
        return []
    first = next(iter(found.values()))
    by_role = {}
    for role in ATTENTION:
        even = _exact(first["token_shares"][role])
        series = [(UNIFORM, layer["layer"], even) for layer in first["layers"]]
        series += [(method, layer["layer"], layer[role]) for method, of in found.items() for layer in of["layers"]]
        by_role[role] = [_point(name, str(layer), share) for name, layer, share in series if share is not None]
    by_position = [
        _point(method, Range(part["first_position"], part["last_position"]).label(shift=1), part)
        for method, of in found.items()
        for part in of["by_gold_position"]["gold"]["parts"]
    ]
    y, top = "Attention (%)", _top([point["high"] for points in by_role.values() for point in points])
    figures = [
        svg.curve(Label(f"attention-{role}", ATTENTION[role], "Layer", y), points, top=top)
        for role, points in by_role.items()
    ]
    if len({point["group"] for point in by_position}) > 1:
        title, x = "Attention to gold by its position, mean of layers", "Position of the gold document (1 = first)"
        label = Label("attention-position", title, x, y)
        figures.append(svg.curve(label, by_position, top=_top([point["high"] for point in by_position])))
    return figures


def kinds(analysis: Values) -> list[Figure]:
    """Draw the shares of the kinds of answers that occur, by method."""
    found = {method: of["errors"] for method, of in in_order(analysis.get("answers", {}))}
    present = [kind for kind in KINDS if any(of[kind]["mean"] > 0 for of in found.values())]
    if not present:
        return []
    shares = [
        {"row": method, "part": KINDS[kind][0], "percent": 100 * of[kind]["mean"]}
        for method, of in found.items()
        for kind in present
    ]
    title = "Answers on the full context, and where the wrong ones occur"
    label = Label("kinds", title, "Share of all answers (%)", "")
    return [svg.stacked_bars(label, shares, dict(KINDS[kind] for kind in present))]


def effects(table: AblationTable) -> list[Row]:
    """List the differences of all rows that are compared with another, in points, in the order of the table."""
    return [
        {
            "group": row.group,
            "name": row.label if row.reference is None else f"{row.label} (vs {table.label_of(row.reference)})",
            "method": row.method,
            "significant": found.p_corrected < text.SIGNIFICANCE,
            **{end: 100 * getattr(found, end) for end in ("difference", "low", "high")},
        }
        for row in table.rows
        if (found := row.to_reference) is not None
    ]


def ablations(table: AblationTable, name: str = "ablations") -> list[Figure]:
    """Draw the ablation table's differences as a forest plot."""
    found = effects(table)
    if not found:
        return []
    others = ", or from the row named" if any(row.reference and row.to_reference for row in table.rows) else ""
    title = f"Difference from {table.label_of(None)}{others}"
    return [svg.forest_plot(Label(name, title, "Points, with 95 % interval", ""), found)]


def overview(summary: Summary) -> Figure:
    """Draw the scores over the longest contexts; a point is hollow where its difference from vanilla is uncertain."""
    rows = [
        _result(row.input, row.method, row.name, row.score.mean, row.score)
        | {"significant": row.to_vanilla is None or text.is_significant(row.to_vanilla)}
        for row in summary.longest
    ]
    return _results("overview", text.capital(MEASURES[summary.measure].phrase), summary.documents, rows)


def main_result(table: AblationTable) -> Figure:
    """Draw the scores of the short table's rows; a point is filled where the difference that the table gives stands."""
    rows = [
        _result(row.input, row.method, row.label, row.pooled.mean, row.pooled)
        | {"significant": row.to_reference is None or row.to_reference.p_corrected < text.SIGNIFICANCE}
        for row in ablation_table.main_rows(table)
    ]
    return _results("main-result", text.capital(table.shown_as.phrase), table.documents, rows)


def _result(given: str, method: str, name: str, mean: float, interval: text.Bounds) -> Row:
    ends = {"difference": 100 * mean, "low": 100 * interval.low, "high": 100 * interval.high}
    return {"group": INPUTS[given], "name": f"{name}: {text.percent(mean)}", "method": method, **ends}


def _results(name: str, measure: str, documents: str, rows: Sequence[Row]) -> Figure:
    rows = sorted(rows, key=lambda row: list(INPUTS.values()).index(row["group"]))
    label = Label(name, f"{measure} over {documents}", f"{measure} (%), with 95 % interval", "")
    return svg.forest_plot(label, rows)


def heat_maps(rows: Sequence[Values], measure: str, title: str) -> list[Figure]:
    """Draw how hard the context is: a map for each method and input, in the order of the main table.

    Columns are numbers of documents, rows the share of distractors that share a name with the person asked about. All
    maps have the same axes and one colour scale from 0 to 100 percent; lightness alone carries it, so that the maps are
    readable without colours.

    Args:
        rows: method, input, num_documents, name_sharing_rate (0 to 1) and for each measure {mean, low, high}; at most
            one row for each cell, a missing one is a gap.
        measure: a key of HEAT.
        title: name of the measure.
    """
    lengths = [str(length) for length in sorted({row["num_documents"] for row in rows})]
    rates = [_rate(rate) for rate in sorted({row["name_sharing_rate"] for row in rows}, reverse=True)]
    roomy = with_intervals(rows)
    cells: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        mean, low, high = (100 * row[measure][name] for name in ("mean", "low", "high"))
        cell = {
            "x": str(row["num_documents"]),
            "y": _rate(row["name_sharing_rate"]),
            "value": mean,
            "text": f"{mean:.0f}",
            "below": f"{low:.0f}\N{EN DASH}{high:.0f}" if roomy else "",
            "outlined": False,
        }
        cells.setdefault((row["method"], row["input"]), []).append(cell)
    figures = []
    for number, key in enumerate(sorted(cells, key=lambda key: row_order(*key))):
        name, x, y = row_name(*key), "Documents in the context", "Distractors sharing a name"
        label = Label(f"surface-{measure}-{number}", f"{title}: {name}", x, y)
        figures.append(svg.heat_map(label, cells[key], lengths, rates, HEAT[measure])._replace(title=name))
    return figures


def focus_map(found: FocusMap) -> list[Figure]:
    """Draw focused minus vanilla in points: a map for each name-sharing rate, all with the same axes and colours.

    Columns are numbers of documents, rows labelled questions. Cells that are significant after correction are outlined.
    """
    lengths = [str(length) for length in sorted({cell.num_documents for cell in found.cells})]
    labelled = [f"{number:,}" for number in sorted({cell.labelled_questions for cell in found.cells})]
    limit = max(LEAST_LIMIT, *(abs(100 * cell.difference) for cell in found.cells)) if found.cells else LEAST_LIMIT
    cells: dict[float, list[Row]] = {}
    for cell in found.cells:
        drawn = {
            "x": str(cell.num_documents),
            "y": f"{cell.labelled_questions:,}",
            "value": 100 * cell.difference,
            "text": text.points(cell.difference),
            "below": f"{text.points(cell.low)} to {text.points(cell.high)}",
            "outlined": cell.p_corrected < text.SIGNIFICANCE,
        }
        cells.setdefault(cell.name_sharing_rate, []).append(drawn)
    ramp = dict(zip((-limit, 0.0, limit), DIVERGING, strict=True))
    figures = []
    for rate in sorted(cells):
        title = f"{_rate(rate)} of the distractors share a name"
        label = Label(f"map-{rate:g}", title, "Documents in the context", "Labelled questions")
        figures.append(svg.heat_map(label, cells[rate], lengths, labelled, ramp))
    return figures


def with_intervals(rows: Sequence[Values]) -> bool:
    """Tell whether the heat maps have room for intervals."""
    return len({row["num_documents"] for row in rows}) <= MOST_WITH_INTERVALS


def _rate(share: float) -> str:
    return f"{100 * share:g} %"


def _point(series: str, group: str, share: Values) -> Row:
    return {"series": series, "group": group, **{end: 100 * share[end] for end in ("mean", "low", "high")}}


def _exact(share: float) -> Values:
    """Make an interval of no width."""
    return dict.fromkeys(("mean", "low", "high"), share)


def _top(highs: Sequence[float]) -> float:
    """Choose the upper end of the y axis, in percent."""
    return min(100.0, 1.05 * max(highs)) or 100.0
