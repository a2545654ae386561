"""Measures the map of conf/map.yaml: from the answers of its runs to the record of reports/map.json.

Each row is compared with its reference in every condition of the test contexts by the crossed bootstrap of tabulate.py;
all cells are corrected together (Holm).
"""

# S seeds, E examples of a cell

from collections.abc import Sequence

import polars as pl

from pipeline.common.tables import name_sharing_rate_of
from pipeline.evaluation.score import groups
from pipeline.report.focus_map import FocusMap, MapCell
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.ablations.grid import LABELLED
from pipeline.tools.ablations.tabulate import RESAMPLES, AblationAnswers, crossed_difference, holm


def measure(rows: Sequence[AblationAnswers], *, seconds: float, code: str, resamples: int = RESAMPLES) -> FocusMap:
    """Compare each row with the row that it names as its reference, cell by cell; others have no cell.

    Args:
        rows: answers over full contexts, whose `subset` names the name-sharing rate. Seeds are compared in pairs, so a
            seed that one of the two lacks is left out.
        seconds: total time of the runs.
        code: the git commit whose code made the answers, in words.

    Raises:
        ArtifactError: two rows that are compared answered different examples.
    """
    named = {row.name: row for row in rows}
    cells: list[MapCell] = []
    for row in rows:
        against = named.get(row.reference or "")
        if against is None or against is row:
            continue
        for (num_documents, subset), cell in groups(_pairs(row, against), "num_documents", "subset"):
            num_seeds = cell["seed"].n_unique()
            focused_SE, vanilla_SE = (
                cell[name].to_numpy().reshape(num_seeds, -1) for name in ("score", "score_reference")
            )
            question_ids = cell["question_id"].to_list()[: len(cell) // num_seeds]
            found = crossed_difference(focused_SE, vanilla_SE, question_ids, paired=True, resamples=resamples)
            cells.append(
                MapCell(
                    **found._asdict(),
                    row=row.name,
                    labelled_questions=row.overrides[LABELLED],
                    num_documents=num_documents,
                    name_sharing_rate=name_sharing_rate_of(subset),
                    focused=focused_SE.mean(),
                    vanilla=vanilla_SE.mean(),
                    p_corrected=found.p_value,
                    num_seeds=num_seeds,
                )
            )
    p_corrected = holm([cell.p_value for cell in cells])
    return FocusMap(
        seconds=seconds,
        code=code,
        cells=[cell.model_copy(update={"p_corrected": p}) for cell, p in zip(cells, p_corrected, strict=True)],
    )


def _pairs(row: AblationAnswers, against: AblationAnswers) -> pl.DataFrame:
    """Put the answers of both beside each other, in the order of seeds and examples."""
    mine = row.answers.join(against.answers, on="seed", how="semi")
    theirs = against.answers.join(row.answers, on="seed", how="semi")
    both = mine.join(theirs, on=["seed", "example_id"], suffix="_reference", validate="1:1")
    if not len(both) == len(mine) == len(theirs):
        raise ArtifactError(
            f"rows {row.name} and {against.name} answer different examples; give both the same data (`common`)"
        )
    return both.sort("seed", "example_id")
