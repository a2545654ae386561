"""Tables for `dvc plots`: one line per group, one column per method and input."""

import csv
import io
from collections.abc import Sequence

from pipeline.report.summary import Measured


def scores(rows: Sequence[Measured], grouped: Sequence[Measured], x: str) -> str:
    """CSV with the scores (0 to 1) of every group.

    Args:
        rows: of the main table; they name the columns, as in the summary.
        grouped: the same rows by group; no groups give the heading alone.
        x: heading of the groups.
    """
    names = [row.name for row in rows]
    cells = {(row.group, row.name): f"{round(row.score.mean, 6)}" for row in grouped}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([x, *(name.replace(" + ", "_") for name in names)])
    for group in dict.fromkeys(row.group for row in grouped):
        writer.writerow([group, *(cells[group, name] for name in names)])
    return text.getvalue()
