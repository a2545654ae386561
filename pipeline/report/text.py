"""Numbers in words: how measures are written, the headline, the main table, and sentences on what analyze found.

Shares are in percent with one decimal, differences in points with their sign.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from pipeline.evaluation import score
from pipeline.evaluation.bootstrap import PairedDifference
from pipeline.report.summary import Measured, Summary, in_order
from pipeline.runtime.errors import counted
from pipeline.runtime.methods import FOCUSED, GUIDED, METHODS, VANILLA

MEANINGS = {
    "best_subspan_em": "Sub-span: a right answer occurs anywhere in the given one.",
    "distraction_rate": "Distracted: the answer is wrong and occurs in a distractor.",
}
"""Measures beside a benchmark's own that need an explanation."""

_MATCHING = {
    "shuffled": "Full views whose nearest masked view is their own, when both ask another example's question",
    "one_question": "The same when all views ask one question, so that only their contexts differ",
    "same_context": "The same among views of one context, so that only their questions differ",
}
"""Way of matching the two views -> what its sentence says."""

MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"
PERCENT = f"{NO_BREAK}%"
INTERVAL = "95 % interval"

_PICTURES = dict.fromkeys(range(0x80, 0xA0), "\N{REPLACEMENT CHARACTER}") | {0x7F: "\N{SYMBOL FOR DELETE}"}
_PICTURES |= {code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\n\t"}
"""Control character -> what is shown in its place."""

SIGNIFICANCE = 0.05
"""Differences with a p-value below this are claimed; in the ablation grid the corrected p-value counts."""

Values = Mapping[str, Any]
"""A JSON object that a stage wrote."""


class Bounds(Protocol):
    """The ends of a 95 % interval."""

    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


def percent(share: float) -> str:
    return f"{100 * share:.1f}".replace("-", MINUS)


def percent_interval(bounds: Bounds) -> str:
    return f"[{percent(bounds.low)}, {percent(bounds.high)}]"


def points(difference: float) -> str:
    """Write a difference of two shares in points."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def points_interval(bounds: Bounds) -> str:
    return f"[{points(bounds.low)}, {points(bounds.high)}]"


def points_range(bounds: Bounds) -> str:
    """Write the interval of a difference in a sentence."""
    return f"95{PERCENT} interval {points(bounds.low)} to {points(bounds.high)}"


def p_cell(p: float) -> str:
    """Write a p-value under a heading that says p."""
    return "< 0.001" if p < 0.0005 else f"{p:.3f}"


def p_value(p: float) -> str:
    """Write a p-value in a sentence, without a break in it."""
    relation = "" if p < 0.0005 else "= "
    return f"p {relation}{p_cell(p)}".replace(" ", NO_BREAK)


def listed(items: Sequence[object]) -> str:
    """List one item or more in words: 100, 200 and 300."""
    *most, last = map(str, items)
    return f"{', '.join(most)} and {last}" if most else last


def capital(sentence: str) -> str:
    """Start the sentence with a capital letter."""
    return sentence[:1].upper() + sentence[1:]


def visible(text: str) -> str:
    """Replace control characters by Unicode's pictures of them, so that data cannot steer a terminal or a browser."""
    return text.translate(_PICTURES)


def markdown(text: str) -> str:
    """Escape text of unknown origin so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\|<>&*`\[\]])", r"\\\1", " ".join(visible(text).split()))


def markdown_table(rows: Sequence[Sequence[str]], num_left: int = 1) -> list[str]:
    """Lay rows out as a Markdown table that also reads well in a terminal.

    The first row holds the headings. The first `num_left` columns are text, aligned left; the others are numbers.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        padded[:num_left] = [cell.ljust(width) for cell, width in zip(cells, widths[:num_left], strict=False)]
        return f"| {' | '.join(padded)} |"

    rule = [f":{'-' * (width + 1)}" for width in widths[:num_left]]
    rule += [f"{'-' * (width + 1)}:" for width in widths[num_left:]]
    first, *others = map(line, rows)
    return [first, f"|{'|'.join(rule)}|", *others]


def headline(summary: Summary) -> str:
    """State how focused learning, and guided learning where it ran, compare with vanilla on the full context."""
    rows = {row.name: row for row in summary.longest}
    compared = [rows[name] for name in (FOCUSED, GUIDED) if name in rows and rows[name].to_vanilla is not None]
    if not compared or compared[0].method != FOCUSED:
        return "There are no predictions of both focused learning and vanilla fine-tuning: nothing to compare yet."
    first, *others = [_compared_with_vanilla(row, summary) for row in compared]
    return " ".join([f"With {summary.documents} in the context, {first}", *map(capital, others)])


def _compared_with_vanilla(row: Measured, summary: Summary) -> str:
    found = row.to_vanilla
    assert found is not None
    name, vanilla, measure = METHODS[row.method].label, METHODS[VANILLA].label, score.MEASURES[summary.measure].phrase
    basis = counted(found.num_questions, "question")
    if row.num_examples != found.num_questions:
        basis = f"{row.num_examples:,} examples of {basis}"
    basis = f"({points_range(found)}, {p_value(found.p_value)}; {basis})"
    if not is_significant(found):
        return (
            f"there is no significant difference between {name} and {vanilla}: {measure} differs by "
            f"{points(found.difference)} points {basis}."
        )
    direction = "above" if found.difference > 0.0 else "below"
    return f"{name} is {abs(100 * found.difference):.1f} points {direction} {vanilla} in {measure} {basis}."


def is_significant(found: PairedDifference) -> bool:
    """Ask both: with few questions the bootstrap's interval is too narrow, while the test is exact."""
    return not found.low <= 0.0 <= found.high and found.p_value < SIGNIFICANCE


def caution(summary: Summary, base: str) -> str:
    """Warn that the shipped base model was made for bios alone; empty when there is nothing to warn of."""
    if not base.endswith("models/tiny-base") or summary.benchmarks == ["bios"]:
        return ""
    return (
        "The base model is the shipped one of 1.1 million parameters, trained on generated biographies alone. Its "
        f"answers to {', '.join(summary.benchmarks)} are poor and say nothing about the method: this run only shows "
        "that the data, the retrieval and the scoring work."
    )


def table(summary: Summary) -> str:
    """Write the main table in Markdown; its caption is the last line."""
    measure = score.MEASURES[summary.measure]
    shorter = summary.lengths[:-1]
    header = ["Method", measure.heading, INTERVAL, *measure.beside.values(), "vs vanilla", INTERVAL, "p"]
    rows = [[*header, *(f"{measure.heading} at {length.label()}" for length in shorter)]]
    score_of = {(row.name, row.group): row.score.mean for row in summary.by_length}
    for row in summary.longest:
        cells = [markdown(row.name), percent(row.score.mean), percent_interval(row.score)]
        difference = [NONE] * 3
        if (found := row.to_vanilla) is not None:
            difference = [points(found.difference), points_interval(found), p_cell(found.p_value)]
        at_shorter = [percent(score_of[row.name, length.label()]) for length in shorter]
        rows.append([*cells, *(percent(getattr(row, name)) for name in measure.beside), *difference, *at_shorter])
    return "\n".join([*markdown_table(rows), "", markdown(caption(summary)), ""])


def caption(summary: Summary) -> str:
    """Explain the numbers of the main table."""
    measure = score.MEASURES[summary.measure]
    heading, phrase = measure.heading, measure.phrase
    meanings = [MEANINGS[name] for name in measure.beside if name in MEANINGS]
    if measure.note:
        meanings.append(measure.note)
    if any(row.input == "longbench" for row in summary.longest):
        meanings.append("Longbench: LongBench's retrieval, the best 7 chunks.")
    methods = {row.method for row in summary.longest}
    notes = [method.note for name, method in METHODS.items() if name in methods and method.note]
    named = phrase if heading.lower() == phrase.lower() else f"{phrase} ({heading})"
    return " ".join(
        [
            f"{', '.join(summary.benchmarks)}: {named} and the other measures with {summary.documents} in the context, "
            f"in percent; {summary.longest[0].num_examples:,} answers per row.",
            *meanings,
            f"vs vanilla: difference in points of {phrase} from vanilla on the full context, on the same examples.",
            *notes,
            "Retrieval: the model reads only the best-scored chunks.",
            *_same_reading(summary),
        ]
    )


def _same_reading(summary: Summary) -> list[str]:
    """Name the lengths at which the best chunks are the whole context, so that both inputs are the same prompt."""
    read = {(row.group, row.method, row.input): (row.mean_prompt_tokens, row.score) for row in summary.by_length}
    same = []
    for length in (length.label() for length in summary.lengths):
        pairs = [
            (reading, read[length, method, "retrieval"])
            for (group, method, given), reading in read.items()
            if (group, given) == (length, "full") and (length, method, "retrieval") in read
        ]
        if pairs and all(full == retrieved for full, retrieved in pairs):
            same.append(length)
    if not same:
        return []
    documents = "document" if same == ["1"] else "documents"
    return [f"With {' and '.join(same)} {documents} these are the whole context, so both rows of a method are equal."]


def analysis_sentences(analysis: Values) -> list[str]:
    """Write one sentence for each thing that analyze measured, with the number of every method that has it."""
    inside, answers = analysis.get("methods", {}), analysis.get("answers", {})
    matching = {method: found["matching"] for method, found in inside.items() if found.get("matching")}
    chance = {name: _whole(found["chance"]) for name, found in next(iter(matching.values()), {}).items()}
    sentences = [
        _by_method("Cosine similarity of the two views of a question", inside, ["alignment"], "{:.2f}".format),
        _by_method("Questions with the same answer from both views", inside, ["answers_equal"]),
        *(
            _by_method(f"{meaning} (chance: {chance[name]})", matching, [name, "mean"])
            for name, meaning in _MATCHING.items()
            if matching
        ),
        _attention_sentence(inside),
        _by_method(
            "Change of the score, in points, from the gold document in first to last position",
            answers,
            ["position", "slope", "mean"],
            points,
        ),
        _by_method("Wrong answers that occur nowhere in the context", answers, ["errors", "hallucinated", "mean"]),
        _by_method("Wrong answers that occur in a distractor", answers, ["errors", "distraction", "mean"]),
    ]
    return [sentence for sentence in sentences if sentence]


def _attention_sentence(inside: Values) -> str:
    """Give the attention to gold in the layer with the most attention to it, of all methods."""
    attention = {method: found["attention"] for method, found in inside.items() if found.get("attention")}
    by_layer: dict[int, dict[str, Values]] = {}
    for method, found in attention.items():
        for layer in found["layers"]:
            if layer["gold"] is not None:
                by_layer.setdefault(layer["layer"], {})[method] = layer["gold"]
    if not by_layer:
        return ""
    most = max(by_layer, key=lambda layer: max(gold["mean"] for gold in by_layer[layer].values()))
    uniform = _whole(next(iter(attention.values()))["token_shares"]["gold"])
    name = f"Attention of the last prompt token to the gold chunks in layer {most} (uniform attention: {uniform})"
    return _by_method(name, by_layer[most], ["mean"])


def _by_method(name: str, methods: Values, path: Sequence[str], write: Callable[[float], str] | None = None) -> str:
    """List the number at `path` of each method that has it, a share in whole percent unless `write` is given."""
    found = {}
    for method, values in in_order(methods):
        for key in path:
            values = None if values is None else values.get(key)
        if values is not None:
            found[method] = (write or _whole)(values)
    return f"{name}: {', '.join(f'{method} {value}' for method, value in found.items())}." if found else ""


def _whole(share: float) -> str:
    return f"{100 * share:.0f}{PERCENT}"
