"""The ablation table in words: claim sentences, and the cells that the page and the Markdown table share."""

from typing import NamedTuple

from pipeline.evaluation import score
from pipeline.evaluation.bootstrap import Interval
from pipeline.report import wording
from pipeline.report.ablation_table import Change, Mean, Row, Table, ToReference
from pipeline.report.ranges import Range
from pipeline.report.wording import NO_BREAK, points

_ANSWERED = ("exact_match", "accuracy")
_PERCENT = f"{NO_BREAK}%"
FIRST_TO_LAST = "First to last"


def claims(table: Table) -> list[str]:
    """One sentence for each row that they are about and that is in the table."""
    return [claim(row, table) for row in table.rows if row.name in table.claimed]


def claim(row: Row, table: Table) -> str:
    """What a row's numbers say against its reference; a difference is one only when it stands after correction."""
    assert table.measure is not None
    measure = score.MEASURES[table.measure].phrase
    reached = f"{wording.percent(row.pooled.mean)}{_PERCENT}"
    name = f"{row.method.capitalize()} ({row.label})" if row.label != row.method else row.method.capitalize()
    over = f"over {_documents(table)}"
    if table.measure in _ANSWERED:
        says = f"{name} answers {reached} of the questions {over}"
    else:
        says = f"{name} reaches {reached} {measure} {over}"
    if row.to_reference is None:
        return f"{says} (95{_PERCENT} interval {_from_to(row.pooled)}); it is compared with nothing."
    name = table.label_of(row.reference)
    return f"{says}{_difference(row.to_reference, name, table)}{_distraction(row.to_reference, name, table)}"


def _difference(found: ToReference, name: str, table: Table) -> str:
    p = wording.p_value(found.p_corrected).replace(" ", NO_BREAK)
    counted = f"{_num(found.num_seeds, 'seed')} x {_num(found.num_questions, 'question')}"
    basis = f"({_interval(found)}, corrected {p}, {counted})"
    if found.p_corrected < wording.SIGNIFICANCE:
        size = f"{abs(100 * found.difference):.1f}"
        return f", {size} points {'more' if found.difference > 0 else 'less'} than {name} {basis}."
    if found.p_value < wording.SIGNIFICANCE:
        why = f"corrected for {_num(table.num_comparisons, 'comparison')}, its difference to {name} does not stand"
    else:
        why = f"these runs do not tell it from {name}"
    return f"; {why}: {points(found.difference)} points {basis}."


def _distraction(found: ToReference, name: str, table: Table) -> str:
    if not _shows_distraction(table):
        return ""
    change = found.distraction_rate
    return f" Answers from distractors: {points(change.difference)} points to {name} ({_interval(change)})."


def comparison(row: Row, other: str) -> str:
    """A row against the one it is compared with, by themselves: nothing is corrected."""
    found = row.to_reference
    assert found is not None
    p = wording.p_value(found.p_value).replace(" ", NO_BREAK)
    counted = f"{_num(found.num_seeds, 'seed')} x {_num(found.num_questions, 'question')}"
    change = found.distraction_rate
    return (
        f"{row.name} to {other}: {points(found.difference)} points of the score ({_interval(found)}, {p}, not "
        f"corrected, {counted}); answers from distractors {points(change.difference)} points ({_interval(change)})"
    )


def headings(table: Table) -> list[str]:
    """Of the cells."""
    assert table.measure is not None
    heading = score.MEASURES[table.measure].heading
    to = f"To {table.label_of(None)}"
    shown = [heading, "95 % interval", to, "95 % interval", "p", "p, corrected"]
    beside = ["Distracted", f"{to}, 95 % interval"] if _shows_distraction(table) else []
    return [*shown, *beside, *([FIRST_TO_LAST] if _shows_slope(table) else []), "Seeds"]


def cells(row: Row, table: Table) -> list[str]:
    """Shares in percent, differences in points."""
    shown = [wording.percent(row.pooled.mean), wording.interval(Interval(**row.pooled.model_dump()))]
    if (found := row.to_reference) is None:
        shown += [wording.NONE] * 4
    else:
        shown += [points(found.difference), _bracket(found)]
        shown += [_bare(found.p_value), _bare(found.p_corrected)]
    if _shows_distraction(table):
        shown.append(wording.percent(row.distraction_rate.mean))
        shown.append(wording.NONE if found is None else _change(found.distraction_rate))
    if _shows_slope(table):
        shown.append(wording.NONE if row.slope is None else points(row.slope.mean))
    return [*shown, f"{len(row.seeds)}"]


def caption(table: Table) -> str:
    """What the cells are."""
    assert table.measure is not None
    distracted = "Distracted: a wrong answer that stands in a distractor. " if _shows_distraction(table) else ""
    slope = f"{FIRST_TO_LAST}: points from the gold document in the first place to the last, of these seeds. "
    comparisons = _num(table.num_comparisons, "comparison")
    return (
        f"{table.benchmark}: {score.MEASURES[table.measure].phrase} over {_documents(table)}, in percent, "
        f"{_num(table.num_questions, 'question')} under every seed. To {table.label_of(None)}: points more or less. "
        f"{_others(table)}{distracted}{slope if _shows_slope(table) else ''}"
        "Differences are over the seeds that both rows have (where these are fewer than two, as of the untuned model, "
        "over all seeds of each), so they may not equal the difference of the two means. "
        "Intervals are over seeds and questions, of means of one seed over questions alone; p is corrected (Holm) for "
        f"{comparisons}. Rows with equal settings are the same runs."
        f"{f' The code that made these figures: {table.code}.' if table.code else ''}"
    )


def _others(table: Table) -> str:
    """The rows that are compared with another row than the table's reference."""
    named = {row.name: row for row in table.rows}
    labels: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        if row.reference in named and row.to_reference is not None:
            labels.setdefault((row.group, row.reference), []).append(row.label)
    return "".join(
        f"Compared with {named[name].label} ({named[name].group}): {', '.join(found)} ({group}). "
        for (group, name), found in labels.items()
    )


class Section(NamedTuple):
    """What the page says of the grid; empty when there are no rows."""

    claim: str
    headings: list[str]
    groups: list[tuple[str, list[tuple[str, list[str]]]]]
    """Group -> (row, cells)."""
    caption: str


def section(table: Table) -> Section:
    """The claims, and the table by groups in the order of the file."""
    if not table.rows:
        return Section("", [], [], "")
    groups: dict[str, list[tuple[str, list[str]]]] = {}
    for row in table.rows:
        groups.setdefault(row.group, []).append((row.label, cells(row, table)))
    return Section(" ".join(claims(table)), headings(table), list(groups.items()), caption(table))


def markdown(table: Table) -> str:
    """The claims, the table and its caption; padded so that it also reads well in a terminal."""
    if not table.rows:
        return "No rows yet: `make ablations` fills this table.\n"
    rows = [["Group", "Row", *map(wording.markdown, headings(table))]]
    rows += [[wording.markdown(row.group), wording.markdown(row.label), *cells(row, table)] for row in table.rows]
    says = [line for text in claims(table) for line in (wording.markdown(text), "")]
    return "\n".join([*says, *wording.grid(rows, num_left=2), "", wording.markdown(caption(table)), ""])


def _bare(p: float) -> str:
    return wording.p_value(p).removeprefix("p ").removeprefix("= ")


def _documents(table: Table) -> str:
    low, high = table.min_documents or table.num_documents or 0, table.num_documents or 0
    return f"{Range(low, high).label()} document{'s' * (high != 1)}"


def _shows_distraction(table: Table) -> bool:
    return table.measure is not None and "distraction_rate" in score.MEASURES[table.measure].beside


def _shows_slope(table: Table) -> bool:
    return any(row.slope is not None for row in table.rows)


def _interval(change: Change) -> str:
    return f"95{_PERCENT} interval {points(change.low)} to {points(change.high)}"


def _change(change: Change) -> str:
    return f"{points(change.difference)} {_bracket(change)}"


def _bracket(change: Change) -> str:
    return f"[{points(change.low)}, {points(change.high)}]"


def _from_to(mean: Mean) -> str:
    return f"{wording.percent(mean.low)} to {wording.percent(mean.high)}"


def _num(count: int, name: str) -> str:
    return f"{count:,} {name}{'s' * (count != 1)}"
