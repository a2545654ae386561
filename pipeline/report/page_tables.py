"""The page's small tables of what the other stages measured; a measure that a file lacks is a gap, not an error."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.report import text
from pipeline.report.summary import in_order
from pipeline.report.text import Values, percent


class PageTable(NamedTuple):
    """Headings of the columns, and rows of (name, cells); all text."""

    headings: list[str]
    rows: list[tuple[str, list[str]]]


_count = "{:,.0f}".format
_decimal = "{:,.1f}".format


def _hundredths(value: float) -> str:
    return f"{value:.2f}".replace("-", text.MINUS)


def _with_interval(write: Callable[[float], str]) -> Callable[[Values], str]:
    return lambda values: f"{write(values['mean'])} [{write(values['low'])}, {write(values['high'])}]"


_share = _with_interval(percent)
_change = _with_interval(text.points)

ColumnFormats = Mapping[str, tuple[str, Callable[[Any], str]]]
"""Name of a value in a stage's JSON -> its heading, and how it is written."""

SPLITS = ("train", "dev", "test")
APART: ColumnFormats = {
    "num_whole": ("Nothing masked", _count),
    "num_only_gold": ("Gold chunks alone", _count),
    "num_equal_scores": ("Equal scores", _count),
    "truncated_questions": ("Questions truncated", _count),
}
"""What says little of a retriever; it is shown where there is some."""
MASK: ColumnFormats = {
    "num_examples": ("Examples", _count),
    "gold_retained": ("Gold chunk kept", percent),
    "answer_retained": ("An answer kept", percent),
    "kept_chunk_share": ("Chunks kept", percent),
    "kept_token_share": ("Chunk tokens kept", percent),
    "mean_tokens_full": ("Tokens, full view", _count),
    "mean_tokens_masked": ("Tokens, masked view", _count),
    **APART,
}
LENGTHS: ColumnFormats = {
    "num_examples": ("Examples", _count),
    "mean_tokens": ("Tokens, mean", _count),
    "max_tokens": ("Tokens, longest", _count),
    "cut": ("Context cut", percent),
    "gold_cut": ("Gold chunk cut", percent),
}
VIEWS: ColumnFormats = {
    "alignment": ("Cosine, own views", _hundredths),
    "alignment_others": ("Cosine, others", _hundredths),
    "in_batch_accuracy": ("Own view nearest", percent),
    "uniformity": ("Uniformity", _hundredths),
    "uniformity_masked": ("Uniformity, masked", _hundredths),
    "answers_equal": ("Same answer", percent),
    "full_score": ("Score, full view", percent),
    "masked_score": ("Score, masked view", percent),
}
VALIDATED: ColumnFormats = {
    "num_gold_known": ("Gold known", _count),
    "mean_chunks": ("Chunks, mean", _decimal),
    "truncated_chunks": ("Chunks truncated", percent),
    **APART,
}
FOUND: ColumnFormats = {
    **{f"recall.{k}": (f"Recall@{k}", percent) for k in (1, 3, 5, 7, 10)},
    "all_gold.5": ("All gold@5", percent),
    "mrr": ("MRR", _hundredths),
    "answer_retention.5": ("Answer@5", percent),
    "collection.recall.1": ("Collection: @1", percent),
    "collection.recall.5": ("@5", percent),
}
MATCHING: ColumnFormats = {
    "own": ("Own question", _share),
    "shuffled": ("Shuffled questions", _share),
    "one_question": ("One for all", _share),
    "same_context": ("Same context", _share),
}
OUTCOMES: ColumnFormats = {
    "both_right": ("Both right", _share),
    "only_full_right": ("Only full view right", _share),
    "only_masked_right": ("Only masked view right", _share),
    "both_wrong": ("Both wrong", _share),
}
SLOPES: ColumnFormats = {
    "score.slope": ("Score, first to last", _change),
    "score.edge_slope": ("Score, middle to ends", _change),
    "gold.slope": ("Attention to gold, first to last", _change),
    "gold.edge_slope": ("Attention to gold, middle to ends", _change),
}
REACH: ColumnFormats = {
    "window": ("Window, tokens", _count),
    "gold_out_of_reach": ("Gold tokens out of reach", percent),
    "num_examples": ("Examples left", _count),
}


def by_split(values: Values, columns: ColumnFormats) -> PageTable:
    """Lay out what a stage measured on each split, such as MASK or LENGTHS."""
    return _table(dict(_splits(values)), columns)


def by_method(analysis: Values, columns: ColumnFormats, part: str | None = None) -> PageTable:
    """Lay out what analyze measured of each method: VIEWS, or the columns of one part, such as OUTCOMES."""
    return _table(_measured(analysis, part) if part else dict(in_order(analysis.get("methods", {}))), columns)


def matching(analysis: Values) -> PageTable:
    """Show how often the two views match, by method, and by chance in the last row."""
    found = _measured(analysis, "matching")
    headings, rows = _table(found, MATCHING)
    if rows:
        first = next(iter(found.values()))
        rows.append(("by chance", [percent(first[name]["chance"]) for name in MATCHING]))
    return PageTable(headings, rows)


def slopes(analysis: Values) -> PageTable:
    """Show how score and attention to gold change with the position of the gold document, by method."""
    attention = _measured(analysis, "attention")
    rows = {}
    for method, found in in_order(analysis.get("answers", {})):
        gold = attention.get(method, {}).get("by_gold_position", {}).get("gold", {})
        rows[method] = {"score": found["position"], "gold": gold}
    return _table(rows, SLOPES)


def reach(analysis: Values) -> PageTable:
    """Show the gold tokens outside each layer's attention window, equal for all methods; empty if there are none."""
    layers = next(iter(_measured(analysis, "attention").values()), {}).get("layers", [])
    cut_off = any(layer["gold_out_of_reach"] for layer in layers)
    return _table({str(layer["layer"]): layer for layer in layers} if cut_off else {}, REACH)


def retrieval(quality: Values) -> PageTable:
    """Show recall in the contexts of every split, and in the whole collection if it was searched."""
    rows = {f"{name}, in the context": shares["all"] for name, shares in _splits(quality)}
    if collection := quality.get("collection"):
        rows["whole collection"] = {
            "num_examples": collection["num_questions"],
            "mean_chunks": collection["num_chunks"],
            "recall": collection["recall"],
        }
    ks = sorted({k for shares in rows.values() for k in shares["recall"]}, key=int)
    recall = {f"recall.{k}": (f"Recall@{k}", percent) for k in ks}
    columns = {"num_examples": ("Questions", _count), "mean_chunks": ("Chunks, mean", _decimal)}
    return _table(rows, columns | recall | {"mrr": ("MRR", _hundredths), **APART})


def validation(values: Values, split: str) -> tuple[PageTable, list[str]]:
    """Compare the retrievers at each measured size of chunk, on one split.

    Returns:
        The table, without the columns of VALIDATED whose value is the same in all rows; and these, as `name value`.
    """
    rows = [dict(_flat(row)) for row in values.get("rows", []) if row["split"] == split]
    rows.sort(key=lambda row: row["chunk_words"])
    several = len({row["chunk_words"] for row in rows}) > 1
    sizes = {group[0]: text.listed(group) for group in equal_sizes(values)}
    named = {
        row["retriever"] + (f", {sizes.get(row['chunk_words'], row['chunk_words'])} words" if several else ""): row
        for row in rows
    }
    constant = {key: rows[0].get(key) for key in VALIDATED if len({row.get(key) for row in rows}) == 1}
    columns = {key: column for key, column in {**VALIDATED, **FOUND}.items() if key not in constant}
    shown = {key: value for key, value in constant.items() if value is not None}
    return _table(named, columns), [f"{VALIDATED[key][0]} {VALIDATED[key][1](value)}" for key, value in shown.items()]


def equal_sizes(values: Values) -> list[list[int]]:
    """Group the sizes of chunks (words) that cut all documents alike and are therefore measured once, by the first."""
    found: dict[int, list[int]] = {}
    for words, measured in values.get("measured_as", {}).items():
        found.setdefault(measured, []).append(int(words))
    return sorted(sorted(group) for group in found.values())


def official(figures: Mapping[str, Values]) -> PageTable:
    """Show the output of the benchmark's official evaluator by row of the main table; counts are named num_..."""
    names = dict.fromkeys(name for values in figures.values() for name in values)
    return _table(figures, {name: (_heading(name), _count if name.startswith("num_") else percent) for name in names})


def _heading(name: str) -> str:
    words = name.removeprefix("num_").replace("_", " ").replace("answer f1", "F1").replace("em", "EM")
    words = words.replace("sat style", "SAT-style")
    return f"Questions, {words}" if name.startswith("num_") else text.capital(words)


def settings(values: Values) -> list[tuple[str, str]]:
    """Write settings or counts as (dotted name, value as in YAML)."""
    return [(name, _yaml(value)) for name, value in _flat(values)]


def by_settings(values: Mapping[str, Values]) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """Group methods whose settings are all equal: (methods, settings)."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for method, of in in_order(values):
        found.setdefault(tuple(settings(of)), []).append(method)
    return [(methods, list(rows)) for rows, methods in found.items()]


def _table(rows: Mapping[str, Values], columns: ColumnFormats) -> PageTable:
    """Lay out the columns that at least one row has; a gap is a dash. Without such columns the table is empty."""
    flat = {name: dict(_flat(row, columns)) for name, row in rows.items()}
    known = [key for key in columns if any(row.get(key) is not None for row in flat.values())]
    cells = [
        (name, [text.NONE if row.get(key) is None else columns[key][1](row[key]) for key in known])
        for name, row in flat.items()
    ]
    return PageTable([columns[key][0] for key in known], cells if known else [])


def _measured(analysis: Values, part: str) -> dict[str, Values]:
    """Pick one part of what analyze measured, of the methods that have it."""
    return {method: found[part] for method, found in in_order(analysis.get("methods", {})) if found.get(part)}


def _splits(values: Values) -> list[tuple[str, Values]]:
    """Order the splits: train, dev, test, then others by name."""
    order = {split: number for number, split in enumerate(SPLITS)}
    return sorted(values.get("splits", {}).items(), key=lambda item: (order.get(item[0], len(order)), item[0]))


def _flat(values: Values, leaves: ColumnFormats | None = None, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Flatten nested values to (dotted name, value), by name; `leaves` are not flattened further."""
    for key, value in sorted(values.items()):
        name = prefix + key
        if name in APART and not value:
            continue
        if isinstance(value, Mapping) and name not in (leaves or ()):
            yield from _flat(value, leaves, f"{name}.")
        else:
            yield name, value


def _yaml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
