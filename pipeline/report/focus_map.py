"""The map of where focused learning helps: its record, reports/map.json, and the sentences about it on the page.

`make map` writes the record. All its models are trained on the same contexts; number of documents and name-sharing rate
are conditions of the test contexts alone.
"""

from pathlib import Path

from pipeline.report import text
from pipeline.report.ablation_table import Change, Record, read_record
from pipeline.report.text import INTERVAL, points, points_range
from pipeline.runtime.errors import counted
from pipeline.runtime.methods import FOCUSED, METHODS, VANILLA

RECORD = Path("reports/map.json")  # in git


class MapCell(Change):
    """Focused minus vanilla in one condition, over the seeds and questions that both have."""

    row: str
    """Name of the row of conf/map.yaml."""
    labelled_questions: int
    num_documents: int
    name_sharing_rate: float
    focused: float
    """Mean score."""
    vanilla: float
    p_value: float
    p_corrected: float
    """By Holm, for all cells of the map."""
    num_seeds: int
    num_questions: int


class FocusMap(Record):
    """The content of reports/map.json. Without cells, the map has not run yet."""

    seconds: float = 0.0
    """Total time of the last attempts of all runs."""
    code: str = ""
    """The git commit whose code made the figures, with its date. Empty: unknown."""
    cells: list[MapCell]


def read(path: Path = RECORD) -> FocusMap:
    """Read a record. Raises ArtifactError: the file is missing, or is not a map of this version."""
    return read_record(path, FocusMap, "a map", "make map")


def claim(found: FocusMap) -> str:
    """Say in one sentence which cells are above zero after correction, or that none is, and which is the best."""
    significant = [cell for cell in found.cells if cell.p_corrected < text.SIGNIFICANCE]
    above = [cell for cell in significant if cell.difference > 0]
    below = sum(cell.difference < 0 for cell in significant)
    best = max(found.cells, key=lambda cell: cell.difference)
    where = (
        f"{len(above)} of {len(found.cells)} cells ({text.listed([_condition(cell) for cell in above])})"
        if above
        else f"none of {len(found.cells)} cells"
    )
    return (
        f"After correction for {counted(len(found.cells), 'comparison')}, {METHODS[FOCUSED].label} is above "
        f"{METHODS[VANILLA].label} in {where}{f', and below it in {below} of them' if below else ''}; the best cell is "
        f"{_condition(best)}: {points(best.difference)} points ({points_range(best)}, corrected "
        f"{text.p_value(best.p_corrected)})."
    )


def caption(found: FocusMap) -> str:
    """Explain the cells."""
    numbers = [sorted({getattr(cell, name) for cell in found.cells}) for name in ("num_seeds", "num_questions")]
    seeds, questions = map(text.listed, numbers)
    sentences = [
        f"{METHODS[FOCUSED].label} minus {METHODS[VANILLA].label} with equal compute, in points, and its {INTERVAL}; "
        f"{seeds} seeds x {questions} questions in each cell.",
        "Outlined: significant after correction (Holm) for all cells.",
        "All models are trained on the same contexts, those of the default run: documents and names shared are "
        "conditions of the test contexts, and trainings differ by labelled questions, method and seed alone.",
        *([f"The code that made these figures: {found.code}."] if found.code else []),
    ]
    return text.capital(" ".join(sentences))


def markdown(found: FocusMap) -> str:
    """Write the claim and the cells in Markdown."""
    if not found.cells:
        return "No cells yet: `make map` fills this table.\n"
    conditions, measured = ["Labelled questions", "Documents", "Sharing a name"], ["Focused", "Vanilla", "Points"]
    rows = [[*conditions, *measured, INTERVAL, "p, corrected"]]
    rows += [
        [
            f"{cell.labelled_questions:,}", f"{cell.num_documents}", f"{cell.name_sharing_rate:.0%}",
            text.percent(cell.focused), text.percent(cell.vanilla), points(cell.difference),
            text.points_interval(cell), text.p_cell(cell.p_corrected),
        ]
        for cell in found.cells
    ]  # fmt: skip
    return "\n".join(
        [text.markdown(claim(found)), "", *text.markdown_table(rows, num_left=0), "", text.markdown(caption(found)), ""]
    )


def _condition(cell: MapCell) -> str:
    return (
        f"{counted(cell.labelled_questions, 'labelled question')} over {counted(cell.num_documents, 'document')} with "
        f"{100 * cell.name_sharing_rate:g}{text.PERCENT} sharing a name"
    )
