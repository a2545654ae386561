"""Numbers in words: how a measure is written, the one sentence on top, the main table in Markdown.

Shares are written in percent with one decimal, differences in points with their sign.
"""

import re
import unicodedata

from pipeline.common import methods
from pipeline.evaluation import score
from pipeline.evaluation.bootstrap import Interval, PairedDifference
from pipeline.report.summary import Measured, Summary

_MEANINGS = {
    "best_subspan_em": "Sub-span: the right answer stands anywhere in the given one.",
    "distraction_rate": "Distracted: a wrong answer that stands in a distractor.",
}

MINUS = "\N{MINUS SIGN}"
NO_BREAK = "\N{NO-BREAK SPACE}"
NONE = "\N{EN DASH}"

SIGNIFICANCE = 0.05
"""A difference is claimed below this p-value, of the ablation grid below this corrected one."""


def percent(share: float) -> str:
    return f"{100 * share:.1f}"


def interval(measure: Interval) -> str:
    return f"[{percent(measure.low)}, {percent(measure.high)}]"


def points(difference: float) -> str:
    """A difference of two shares, in points."""
    return f"{100 * difference:+.1f}".replace("-", MINUS)


def points_interval(difference: PairedDifference) -> str:
    return f"[{points(difference.low)}, {points(difference.high)}]"


def p_value(p: float) -> str:
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"


def visible(text: str) -> str:
    """Control characters as the pictures Unicode has for them, so that data cannot steer a terminal or a browser."""
    return "".join(_picture(character) if unicodedata.category(character) == "Cc" else character for character in text)


def _picture(character: str) -> str:
    if character in "\n\t":
        return character
    code = ord(character)
    return (
        chr(0x2400 + code) if code < 0x20 else "\N{SYMBOL FOR DELETE}" if code == 0x7F else "\N{REPLACEMENT CHARACTER}"
    )


def headline(summary: Summary) -> str:
    """What the numbers say about focused learning, and about distill, against vanilla, all reading the full context."""
    rows = {row.name: row for row in summary.longest}
    focused = rows.get(methods.FOCUSED)
    if focused is None or focused.to_vanilla is None:
        return "Focused learning and vanilla fine-tuning are not both among the predictions: nothing to compare yet."
    says = f"With {summary.documents} in the context, {_against_vanilla(focused, summary)}"
    distill = rows.get(methods.DISTILL)
    if distill is None or distill.to_vanilla is None:
        return says
    return f"{says} {_capital(_against_vanilla(distill, summary))}"


def _against_vanilla(row: Measured, summary: Summary) -> str:
    found = row.to_vanilla
    assert found is not None
    name, vanilla = methods.METHODS[row.method].label, methods.METHODS[methods.VANILLA].label
    measure = score.MEASURES[summary.measure].phrase
    chance = p_value(found.p_value).replace(" ", NO_BREAK)
    spread = f"95{NO_BREAK}% interval {points(found.low)} to {points(found.high)}, {chance}"
    counted = f"{found.num_questions:,} question{'s' * (found.num_questions != 1)}"
    if row.num_examples != found.num_questions:
        counted = f"{row.num_examples:,} examples of {counted}"
    # Both, for with few questions the bootstrap's interval is too narrow and the test on them is exact.
    if found.low <= 0.0 <= found.high or found.p_value >= SIGNIFICANCE:
        return (
            f"these numbers do not tell {name} from {vanilla}: {measure} differs by "
            f"{points(found.difference)} points ({spread}; {counted})."
        )
    direction = "above" if found.difference > 0.0 else "below"
    return (
        f"{name} is {abs(100 * found.difference):.1f} points {direction} {vanilla} in {measure} ({spread}; {counted})."
    )


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def caution(summary: Summary, base: str) -> str:
    """What must be read before the numbers: the shipped model was made for bios alone. Empty: nothing."""
    if not base.endswith("models/tiny-base") or summary.benchmarks == ["bios"]:
        return ""
    return (
        f"The base model here is the shipped one of 1.1 million parameters, trained on generated biographies: its "
        f"answers to {', '.join(summary.benchmarks)} are poor and say nothing about the method. What this run shows is "
        "the data, the retrieval and the scoring."
    )


def table(summary: Summary) -> str:
    """The main table in Markdown, padded so that it also reads well in a terminal; its caption is the last line."""
    measure = score.MEASURES[summary.measure].heading
    header = ["Method", measure, "95 % interval", *headings(summary.measure), "To vanilla", "95 % interval", "p"]
    header += [f"{measure} at {length.label()}" for length in summary.lengths[:-1]]
    rows = [header, *(_cells(row, summary) for row in summary.longest)]
    return "\n".join([*grid(rows), "", markdown(caption(summary)), ""])


def grid(rows: list[list[str]], num_left: int = 1) -> list[str]:
    """Lines of a Markdown table, the first row its headings; `num_left` columns of words, the others are figures."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rules = [
        f":{'-' * (width + 1)}|" if place < num_left else f"{'-' * (width + 1)}:|" for place, width in enumerate(widths)
    ]
    first, *others = [_line(row, widths, num_left) for row in rows]
    return [first, "|" + "".join(rules), *others]


def caption(summary: Summary) -> str:
    """What the main table's numbers are."""
    _, heading, measure, columns, note = score.MEASURES[summary.measure]
    named = measure if heading.lower() == measure.lower() else f"{measure} ({heading})"
    meanings = [_MEANINGS[name] for name in columns if name in _MEANINGS]
    if note:
        meanings.append(note)
    if any(row.input == "longbench" for row in summary.longest):
        meanings.append("Longbench: LongBench's retrieval, the best 7 chunks.")
    return (
        f"{', '.join(summary.benchmarks)}: {named} and the rest with {summary.documents} in the context, "
        f"{summary.longest[0].num_examples:,} answers per row, in percent. {' '.join([*meanings, ''])}To vanilla: "
        f"points of {measure} more or less than vanilla on the full context, same examples. Retrieval: only the best "
        f"chunks are read.{_same_reading(summary)}"
    )


def _same_reading(summary: Summary) -> str:
    """Where the best chunks are the whole context, retrieval and the full context are one reading."""
    rows = {(row.method, row.input, row.group): row for row in summary.by_length}
    same = [
        length.label()
        for length in summary.lengths
        if (
            pairs := [
                (row, rows[row.method, "retrieval", length.label()])
                for row in summary.by_length
                if row.input == "full"
                and (row.method, "retrieval", length.label()) in rows
                and row.group == length.label()
            ]
        )
        and all((a.mean_prompt_tokens, a.score) == (b.mean_prompt_tokens, b.score) for a, b in pairs)
    ]
    if not same:
        return ""
    documents = "document" if same == ["1"] else "documents"
    return f" With {' and '.join(same)} {documents} these are the whole context, so both rows of a method are one."


def headings(measure: str) -> list[str]:
    """Of the columns beside the measure."""
    return list(score.MEASURES[measure].beside.values())


def beside(row: Measured, measure: str) -> list[str]:
    """The cells under `headings`."""
    return [percent(getattr(row, name)) for name in score.MEASURES[measure].beside]


def markdown(text: str) -> str:
    """Text of unknown origin that Markdown shows as it is, on one line."""
    return re.sub(r"([\\|<>&*`\[\]])", r"\\\1", " ".join(visible(text).split()))


def _cells(row: Measured, summary: Summary) -> list[str]:
    by_group = {at.group: at for at in summary.by_length if at.name == row.name}
    cells = [
        markdown(row.name),
        percent(row.score.mean),
        interval(row.score),
        *beside(row, summary.measure),
    ]
    if (found := row.to_vanilla) is None:
        cells += [NONE] * 3
    else:
        cells += [
            points(found.difference),
            points_interval(found),
            p_value(found.p_value).removeprefix("p ").removeprefix("= "),
        ]
    return cells + [percent(by_group[length.label()].score.mean) for length in summary.lengths[:-1]]


def _line(cells: list[str], widths: list[int], num_left: int) -> str:
    padded = [
        cell.ljust(width) if place < num_left else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return " ".join(["|", " | ".join(padded), "|"])
