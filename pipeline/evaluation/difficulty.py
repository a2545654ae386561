"""How hard a context is: a method's answers by number of documents and name-sharing rate."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.common.documents import name_sharing_rate_of
from pipeline.evaluation import bootstrap

Row = Mapping[str, Any]


def surface(rows: Iterable[Row], *, resamples: int, seed: int = 0) -> list[dict[str, Any]]:
    """One cell for each method, input, number of documents and name-sharing rate, in ascending order.

    `rows` are predictions whose `subset` names the name-sharing rate (`subset_of`). Score and distraction rate lie
    between 0 and 1, with 95 % intervals over questions.
    """
    cells: dict[tuple[str, str, int, float], list[Row]] = defaultdict(list)
    for row in rows:
        rate = name_sharing_rate_of(row["subset"])
        cells[row["method"], row["input"], row["num_documents"], rate].append(row)

    def interval(values: list[float], questions: list[str]) -> dict[str, float]:
        return bootstrap.interval(values, questions, resamples=resamples, seed=seed)._asdict()

    found = []
    for (method, given, num_documents, rate), group in sorted(cells.items()):
        questions = [row["question_id"] for row in group]
        found.append(
            {
                "method": method,
                "input": given,
                "num_documents": num_documents,
                "name_sharing_rate": rate,
                "num_examples": len(group),
                "score": interval([row["score"] for row in group], questions),
                "distraction_rate": interval([float(row["error"] == "distraction") for row in group], questions),
            }
        )
    return found
