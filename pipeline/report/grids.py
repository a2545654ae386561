"""The page's small tables, from what the earlier stages measured; what a file lacks is a gap, not an error."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.report import summary, wording

Values = Mapping[str, Any]
Format = Callable[[float], str]


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _decimal(value: float) -> str:
    return f"{value:,.1f}"


def _hundredths(value: float) -> str:
    return f"{value:.2f}".replace("-", wording.MINUS)


class Grid(NamedTuple):
    """Headings of the columns, and rows of (name, cells); all text."""

    headings: list[str]
    rows: list[tuple[str, list[str]]]


SPLITS = ("train", "dev", "test")
MASK: dict[str, tuple[str, Format]] = {
    "num_examples": ("Examples", _count),
    "gold_retained": ("Gold chunk kept", wording.percent),
    "answer_retained": ("An answer kept", wording.percent),
    "kept_chunk_share": ("Chunks kept", wording.percent),
    "kept_token_share": ("Chunk tokens kept", wording.percent),
    "mean_tokens_full": ("Tokens, full view", _count),
    "mean_tokens_masked": ("Tokens, masked view", _count),
}
LENGTHS: dict[str, tuple[str, Format]] = {
    "num_examples": ("Examples", _count),
    "mean_tokens": ("Tokens, mean", _count),
    "max_tokens": ("Tokens, longest", _count),
    "cut": ("Context cut", wording.percent),
    "gold_cut": ("Gold chunk cut", wording.percent),
}
ANALYSIS: dict[str, tuple[str, Format]] = {
    "alignment": ("Cosine, own views", _hundredths),
    "alignment_others": ("Cosine, others", _hundredths),
    "in_batch_accuracy": ("Own view nearest", wording.percent),
    "uniformity": ("Uniformity", _hundredths),
    "uniformity_masked": ("Uniformity, masked", _hundredths),
    "answers_equal": ("Same answer", wording.percent),
    "full_score": ("Score, full view", wording.percent),
    "masked_score": ("Score, masked view", wording.percent),
}
VALIDATED: dict[str, tuple[str, Format]] = {
    "num_gold_known": ("Gold known", _count),
    "mean_chunks": ("Chunks, mean", _decimal),
    "truncated_chunks": ("Chunks truncated", wording.percent),
}
FOUND: dict[str, tuple[str, Format]] = {
    **{f"recall.{k}": (f"Recall@{k}", wording.percent) for k in (1, 3, 5, 7, 10)},
    "all_gold.5": ("All gold@5", wording.percent),
    "mrr": ("MRR", _hundredths),
    "answer_retention.5": ("Answer@5", wording.percent),
    "collection.recall.1": ("Collection: @1", wording.percent),
    "collection.recall.5": ("@5", wording.percent),
}


def mask(values: Values) -> Grid:
    """What masking leaves, by split."""
    return _grid(dict(sorted(values.get("splits", {}).items(), key=_by_split)), MASK)


def validation(values: Values, split: str) -> Grid:
    """Each retriever at each size of chunk that was measured, on one split; without what holds for all rows."""
    rows = _validated(values, split)
    return _grid(rows, {**{key: VALIDATED[key] for key in VALIDATED if not _constant(rows, key)}, **FOUND})


def validation_constants(values: Values, split: str) -> list[str]:
    """What holds for all rows of `validation`, as `name value`."""
    rows = _validated(values, split)
    known = {key: next(iter(rows.values())).get(key) for key in VALIDATED if rows and _constant(rows, key)}
    return [f"{VALIDATED[key][0]} {VALIDATED[key][1](value)}" for key, value in known.items() if value is not None]


def alike(values: Values) -> list[list[int]]:
    """Sizes of chunks in words, smallest first; those that cut all documents alike, and are measured once, together."""
    groups: dict[int, list[int]] = {}
    for words, measured in values.get("measured_as", {}).items():
        groups.setdefault(measured, []).append(int(words))
    return sorted(sorted(group) for group in groups.values())


def listed(items: Sequence[object]) -> str:
    """In words, one or more: 100, 200 and 300."""
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def _validated(values: Values, split: str) -> dict[str, Values]:
    rows = [row for row in values.get("rows", []) if row["split"] == split]
    several = len({row["chunk_words"] for row in rows}) > 1
    sizes = {group[0]: listed(group) for group in alike(values)}
    return {
        f"{row['retriever']}, {sizes.get(row['chunk_words'], row['chunk_words'])} words"
        if several
        else row["retriever"]: dict(_walk(row))
        for row in sorted(rows, key=lambda row: row["chunk_words"])
    }


def _constant(rows: Mapping[str, Values], key: str) -> bool:
    return len({row.get(key) for row in rows.values()}) == 1


def lengths(values: Values) -> Grid:
    """Of the full views, by split."""
    return _grid(dict(sorted(values.get("splits", {}).items(), key=_by_split)), LENGTHS)


def official(figures: Mapping[str, Values]) -> Grid:
    """What the benchmark's own evaluator prints, by method; names of counts open with num_. Empty without any."""
    names = dict.fromkeys(name for values in figures.values() for name in values)
    if not names:
        return Grid([], [])
    return _grid(figures, {name: (_heading(name), _count if name.startswith("num_") else _share) for name in names})


def _heading(name: str) -> str:
    words = name.removeprefix("num_").replace("_", " ").replace("answer f1", "F1").replace("em", "EM")
    words = words.replace("sat style", "SAT-style")
    return f"Questions, {words}" if name.startswith("num_") else f"{words[0].upper()}{words[1:]}"


def _share(value: float) -> str:
    return wording.percent(value).replace("-", wording.MINUS)


def analysis(values: Values) -> Grid:
    """The two views compared, by method."""
    methods: Values = values.get("methods", {})
    return _grid({name: methods[name] for name in sorted(methods, key=summary.method_order)}, ANALYSIS)


def retrieval(quality: Values) -> Grid:
    """Of every split, over all its contexts; last the search through the whole collection, if there was one."""
    splits = sorted(quality.get("splits", {}).items(), key=_by_split)
    rows = {f"{name}, in the context": shares["all"] for name, shares in splits}
    if collection := quality.get("collection"):
        rows["whole collection"] = {
            "num_examples": collection["num_questions"],
            "mean_chunks": collection["num_chunks"],
            "recall": collection["recall"],
        }
    ks = sorted({k for shares in rows.values() for k in shares["recall"]}, key=int)
    columns = {"num_examples": ("Asked", _count), "mean_chunks": ("Chunks, mean", _decimal)}
    columns |= {f"recall.{k}": (f"Recall@{k}", wording.percent) for k in ks} | {"mrr": ("MRR", _hundredths)}
    return _grid({name: dict(_walk(shares)) for name, shares in rows.items()}, columns)


def _grid(rows: Mapping[str, Values], columns: Mapping[str, tuple[str, Format]]) -> Grid:
    """The columns that at least one row knows; a row's gap is a dash."""
    known = [key for key in columns if any(row.get(key) is not None for row in rows.values())]
    cells = [
        (name, [wording.NONE if row.get(key) is None else columns[key][1](row[key]) for key in known])
        for name, row in rows.items()
    ]
    return Grid([columns[key][0] for key in known], cells)


def _walk(values: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values as (dotted name, value), in the order of the names."""
    for name, value in sorted(values.items()):
        if isinstance(value, Mapping):
            yield from _walk(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def settings(values: Values) -> list[tuple[str, str]]:
    """Settings or counts as (dotted name, text), as they would stand in YAML."""
    return [(name, _yaml(value)) for name, value in _walk(values)]


def by_values(values: Mapping[str, Values]) -> list[tuple[list[str], list[tuple[str, str]]]]:
    """Names that share all their values together, with these: (names, settings)."""
    groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for name in sorted(values, key=summary.method_order):
        groups.setdefault(tuple(settings(values[name])), []).append(name)
    return [(names, list(rows)) for rows, names in groups.items()]


def _yaml(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_yaml(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _by_split(item: tuple[str, Any]) -> tuple[int, str]:
    return (SPLITS.index(item[0]) if item[0] in SPLITS else len(SPLITS), item[0])
