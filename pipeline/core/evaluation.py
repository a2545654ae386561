"""From a prediction to the columns of its row, and from rows to the figures of one method and input."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pipeline.core import metrics, statistics

METRICS = ("exact_match", "token_f1", "best_subspan_em")
POSITION_BINS = 5  # parts of a context that the gold document may stand in

Row = Mapping[str, Any]


def distractors(chunks: Iterable[Row], gold_document_ids: Sequence[str]) -> dict[str, str]:
    """Title and text of each document, as far as the chunks show it, that is not gold; none where gold is unknown.

    `chunks` are what the model was given: rows with document_id, title and text.
    """
    parts: dict[str, list[str]] = {}
    for chunk in chunks:
        if gold_document_ids and chunk["document_id"] not in gold_document_ids:
            parts.setdefault(chunk["document_id"], [chunk["title"]]).append(chunk["text"])
    return {document_id: "\n".join(texts) for document_id, texts in parts.items()}


def score(prediction: str, references: Sequence[str], distractor_texts: Mapping[str, str]) -> dict[str, Any]:
    """The prediction, its metrics, the class of its error, and which distractor holds it (empty: none)."""
    error, index = metrics.error_class(prediction, references, list(distractor_texts.values()))
    return {
        "prediction": prediction,
        **{name: getattr(metrics, name)(prediction, references) for name in METRICS},
        "error": error,
        "distractor_id": list(distractor_texts)[index] if index >= 0 else "",
    }


def figures(rows: Sequence[Row], resamples: int, seed: int = 0) -> dict[str, Any]:
    """The same figures over all rows, by number of documents, and by fifth of the context that holds the gold document.

    Rates are between 0 and 1, metrics and distraction rate with 95 % intervals over questions. A row whose gold
    position is unknown is in no position group. distraction_share_of_errors is None where nothing is wrong.
    """
    by_num: dict[int, list[Row]] = defaultdict(list)
    by_bin: dict[tuple[int, int], list[Row]] = defaultdict(list)
    for row in rows:
        num_documents, position = row["num_documents"], row["gold_position"]
        by_num[num_documents].append(row)
        if position >= 0:
            by_bin[num_documents, position * POSITION_BINS // num_documents].append(row)
    return {
        "overall": _of_group(rows, resamples, seed),
        "by_num_documents": [
            {"num_documents": num_documents, **_of_group(group, resamples, seed)}
            for num_documents, group in sorted(by_num.items())
        ],
        "by_gold_position": [
            {
                "num_documents": num_documents,
                "first_position": min(row["gold_position"] for row in group),
                "last_position": max(row["gold_position"] for row in group),
                **_of_group(group, resamples, seed),
            }
            for (num_documents, _), group in sorted(by_bin.items())
        ],
    }


def _of_group(rows: Sequence[Row], resamples: int, seed: int) -> dict[str, Any]:
    question_ids = [row["question_id"] for row in rows]

    def interval(values: list[float]) -> dict[str, float]:
        return statistics.interval(values, question_ids, resamples=resamples, seed=seed)._asdict()

    distracted = [float(row["error"] == "distraction") for row in rows]
    num_wrong = sum(row["error"] != "correct" for row in rows)
    return {
        "n": len(rows),
        "num_questions": len(set(question_ids)),
        **{name: interval([row[name] for row in rows]) for name in METRICS},
        "distraction_rate": interval(distracted),
        "distraction_share_of_errors": sum(distracted) / num_wrong if num_wrong else None,
        "mean_prompt_tokens": sum(row["prompt_tokens"] for row in rows) / len(rows),
    }
