"""The table of a grid: its record, such as reports/ablations.json, its cells and its claims, for the page and Markdown.

`make ablations` writes the record, `make laptop` another; the report and `make readme-results` read them.
"""

from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from pipeline.evaluation.score import MEASURES, Measure
from pipeline.report import text
from pipeline.report.summary import Range
from pipeline.report.text import INTERVAL, percent, percent_interval, points, points_interval, points_range
from pipeline.runtime.errors import ArtifactError, counted
from pipeline.runtime.methods import BASE

R = TypeVar("R", bound="Record")

RECORD, LAPTOP = Path("reports/ablations.json"), Path("reports/laptop.json")  # in git
_FIRST_TO_LAST = "First to last"


class Record(BaseModel):
    """A JSON file that is kept in git; keys that this version does not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Mean(Record):
    """A mean and its 95 % interval; a share is from 0 to 1."""

    mean: float
    low: float
    high: float


class SeedMean(Mean):
    """The mean of one training; the interval is over questions."""

    seed: int


class Change(Record):
    """A difference from the reference row on the same questions, and its 95 % interval."""

    difference: float
    low: float
    high: float


class ToReference(Change):
    """The difference of the score with its test, and the differences of two other measures."""

    p_value: float
    p_corrected: float
    num_seeds: int
    """Number of seeds of this row that were compared."""
    num_questions: int
    distraction_rate: Change
    slope: Change | None
    """Difference of AblationRow.slope."""


class AblationRow(Record):
    """One row of the table: one configuration of training and input, over its seeds."""

    name: str
    label: str
    group: str
    method: str
    input: str
    overrides: dict[str, Any]
    reference: str | None = None
    """Name of the row that it is compared with; None: the table's reference."""
    seeds: list[int]
    per_seed: list[SeedMean]
    pooled: Mean
    """Over seeds and questions."""
    distraction_rate: Mean
    slope: Mean | None
    """Change of the score from the gold document in first to last position, along the least-squares line; the interval
    is over questions. None: the positions are unknown, or all equal."""
    to_reference: ToReference | None


class AblationTable(Record):
    """The content of reports/ablations.json. Without rows, the grid has not run yet."""

    benchmark: str | None = None
    min_documents: int | None = None
    """Fewest documents of a context that counts as longest."""
    num_documents: int | None = None
    """Most documents of a context."""
    num_questions: int = 0
    """Number of questions about the longest contexts."""
    measure: str | None = None
    correction: Literal["holm"] = "holm"
    num_comparisons: int = 0
    reference: str = ""
    """Name of the row that the others are compared with, unless they name another."""
    claimed: list[str] = []
    """Names of the rows that the claims are about."""
    seconds: float = 0.0
    """Total time of the last attempts of all runs."""
    code: str = ""
    """The git commit whose code made the figures, with its date. Empty: unknown."""
    rows: list[AblationRow]
    shorter: list["AblationTable"] = []
    """The same rows over contexts of fewer documents, fewest first, where the grid measures contexts of each length."""

    @model_validator(mode="after")
    def _is_measured(self) -> Self:
        if self.rows and (self.measure is None or self.num_documents is None):
            raise ValueError("there are rows, but no measure or no num_documents")
        return self

    def label_of(self, name: str | None) -> str:
        """Label of the row with this name; None: of the table's reference."""
        name = name or self.reference
        return next((row.label for row in self.rows if row.name == name), name)

    @property
    def shown_as(self) -> Measure:
        """How the measure is shown."""
        assert self.measure is not None
        return MEASURES[self.measure]

    @property
    def documents(self) -> str:
        """The number of documents of the longest contexts, in words."""
        return Range(self.min_documents or self.num_documents or 0, self.num_documents or 0).documents()

    @property
    def shows_distraction(self) -> bool:
        return "distraction_rate" in self.shown_as.beside

    @property
    def shows_slope(self) -> bool:
        return any(row.slope is not None for row in self.rows)


def read(path: Path = RECORD) -> AblationTable:
    """Read a record. Raises ArtifactError as `read_record`."""
    return read_record(path, AblationTable, "an ablation table", f"make {path.stem}")


def read_record(path: Path, kind: type[R], name: str, command: str) -> R:
    """Read a record in git, which `command` writes.

    Raises:
        ArtifactError: the file is missing, or is not such a record of this version; the first wrong field is named.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        what = "no such file"
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the whole"
        what = f"not {name} ({field}: {first['msg'][0].lower()}{first['msg'][1:]})"
    raise ArtifactError(f"{path}: {what}; run `git checkout {path}` or `{command}`")


def main_rows(table: AblationTable) -> list[AblationRow]:
    """List the rows of the short table: the claimed ones, those they are compared with, and those with retrieval.

    The untuned model and the table's reference are among them. Rows that read the full context come first.
    """
    claimed = [row for row in table.rows if row.name in table.claimed]
    named = {table.reference, *table.claimed, *(row.reference for row in claimed)}
    found = [row for row in table.rows if row.name in named or row.method == BASE or row.input == "retrieval"]
    return sorted(found, key=lambda row: row.input != "full")


def claims(table: AblationTable) -> list[str]:
    """Write a sentence for each claimed row that is in the table."""
    return [claim(row, table) for row in table.rows if row.name in table.claimed]


def claim(row: AblationRow, table: AblationTable) -> str:
    """State a row's score, and how it compares with its reference: only a corrected p-value makes a difference one."""
    method = row.method.capitalize()
    name = (
        f"{method}{row.label.removeprefix(row.method)}"
        if row.label.startswith(row.method)
        else f"{method} ({row.label})"
    )
    reached = f"{percent(row.pooled.mean)}{text.PERCENT}"
    if table.shown_as.right_or_wrong:
        sentence = f"{name} answers {reached} of the questions over {table.documents} correctly"
    else:
        sentence = f"{name} reaches {reached} {table.shown_as.phrase} over {table.documents}"
    found = row.to_reference
    if found is None:
        low, high = percent(row.pooled.low), percent(row.pooled.high)
        return f"{sentence} (95{text.PERCENT} interval {low} to {high}); it has no row to be compared with."
    other = table.label_of(row.reference)
    other = f'"{other}"' if " " in other else other
    basis = f"({points_range(found)}, corrected {text.p_value(found.p_corrected)}, {_basis(found)})"
    if found.p_corrected < text.SIGNIFICANCE:
        size = f"{abs(100 * found.difference):.1f} points {'more' if found.difference > 0 else 'less'}"
        sentence += f", {size} than {other} {basis}."
    elif found.p_value < text.SIGNIFICANCE:
        comparisons = counted(table.num_comparisons, "comparison")
        sentence += (
            f"; its difference from {other} is not significant after correction for {comparisons}: "
            f"{points(found.difference)} points {basis}."
        )
    else:
        sentence += f"; no significant difference from {other}: {points(found.difference)} points {basis}."
    if not table.shows_distraction:
        return sentence
    change = found.distraction_rate
    return f"{sentence} Distraction errors differ by {points(change.difference)} points ({points_range(change)})."


def comparison(row: AblationRow, other: str) -> str:
    """Compare a row with its reference, without correction for other comparisons."""
    found = row.to_reference
    assert found is not None
    change = found.distraction_rate
    return (
        f"{row.name} compared with {other}: {points(found.difference)} points of the score ({points_range(found)}, "
        f"uncorrected {text.p_value(found.p_value)}, {_basis(found)}); distraction errors "
        f"{points(change.difference)} points ({points_range(change)})"
    )


def headings(table: AblationTable) -> list[str]:
    """Headings of the columns of `cells`."""
    reference = f"vs {table.label_of(None)}"
    beside = ["Distracted", f"{reference}, {INTERVAL}"] if table.shows_distraction else []
    slope = [_FIRST_TO_LAST] if table.shows_slope else []
    return [table.shown_as.heading, INTERVAL, reference, INTERVAL, "p", "p, corrected", *beside, *slope, "Seeds"]


def cells(row: AblationRow, table: AblationTable) -> list[str]:
    """Write a row's shares in percent and its differences in points."""
    shown = [percent(row.pooled.mean), percent_interval(row.pooled)]
    found = row.to_reference
    if found is None:
        shown += [text.NONE] * 4
    else:
        shown += [points(found.difference), points_interval(found)]
        shown += [text.p_cell(found.p_value), text.p_cell(found.p_corrected)]
    if table.shows_distraction:
        change = found and f"{points(found.distraction_rate.difference)} {points_interval(found.distraction_rate)}"
        shown += [percent(row.distraction_rate.mean), change or text.NONE]
    if table.shows_slope:
        shown.append(text.NONE if row.slope is None else points(row.slope.mean))
    return [*shown, f"{len(row.seeds)}"]


def caption(table: AblationTable) -> str:
    """Explain the cells."""
    reference = table.label_of(None)
    sentences = [
        f"{table.benchmark}: {table.shown_as.phrase} over {table.documents}, in percent, "
        f"{counted(table.num_questions, 'question')} for every seed.",
        f"vs {reference}: difference in points.",
        *_other_references(table),
    ]
    if table.shows_distraction:
        sentences.append(text.MEANINGS["distraction_rate"])
    if table.shows_slope:
        sentences.append(
            f"{_FIRST_TO_LAST}: change in points from the gold document in first to last position, over these seeds."
        )
    return " ".join(
        [
            *sentences,
            "Differences are over the seeds that both rows have (or over all seeds of each, where they share fewer "
            "than two, as with the untuned model), so they may not equal the difference of the two means.",
            "Intervals are over seeds and questions, or over questions alone for one seed.",
            f"p is corrected (Holm) for {counted(table.num_comparisons, 'comparison')}.",
            "Rows with equal settings are the same runs.",
            *([f"The code that made these figures: {table.code}."] if table.code else []),
        ]
    )


def _other_references(table: AblationTable) -> list[str]:
    """Name the rows that are compared with another row than the table's reference."""
    named = {row.name: row for row in table.rows}
    labels: dict[tuple[str, str], list[str]] = {}
    for row in table.rows:
        if row.reference in named and row.to_reference is not None:
            labels.setdefault((row.group, row.reference), []).append(row.label)
    return [
        f"Compared with {named[name].label} ({named[name].group}): {', '.join(found)} ({group})."
        for (group, name), found in labels.items()
    ]


def groups(table: AblationTable) -> dict[str, list[tuple[str, list[str]]]]:
    """Map each group to its rows as (label, cells), in the order of the file."""
    found: dict[str, list[tuple[str, list[str]]]] = {}
    for row in table.rows:
        found.setdefault(row.group, []).append((row.label, cells(row, table)))
    return found


def markdown(table: AblationTable, command: str = "make ablations") -> str:
    """Write the claims, the table and its caption in Markdown; those of shorter contexts below."""
    if not table.rows:
        return f"No rows yet: `{command}` fills this table.\n"
    rows = [["Group", "Row", *map(text.markdown, headings(table))]]
    rows += [[text.markdown(row.group), text.markdown(row.label), *cells(row, table)] for row in table.rows]
    sentences = [line for sentence in claims(table) for line in (text.markdown(sentence), "")]
    whole = [*sentences, *text.markdown_table(rows, num_left=2), "", text.markdown(caption(table)), ""]
    return "\n".join([*whole, *(f"## Over {one.documents}\n\n{markdown(one)}" for one in reversed(table.shorter))])


def _basis(found: ToReference) -> str:
    return f"{counted(found.num_seeds, 'seed')} x {counted(found.num_questions, 'question')}"
