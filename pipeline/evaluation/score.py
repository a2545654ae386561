"""From a prediction to the columns of its row, and from rows to the figures of one method and input.

How hard a context is: a method's answers by number of documents and name-sharing rate.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pipeline.common.tables import Row, name_sharing_rate_of
from pipeline.evaluation import bootstrap, metrics, official
from pipeline.views import tasks

METRICS = ("score", "exact_match", "token_f1", "best_subspan_em")
POSITION_BINS = 5  # parts of a context that the gold document may stand in


class Measure(NamedTuple):
    """One measure of an answer, from 0 to 1, and how reports show it."""

    function: Callable[[str, Sequence[str]], float] | None
    """Takes a prediction and its references; None: a multiple-choice question is measured by its likeliest option."""
    heading: str
    """Of a table's column."""
    phrase: str
    """In a sentence."""
    beside: Mapping[str, str]
    """Columns that the main table shows beside the measure, with their headings."""
    note: str = ""
    """Explanation in the main table's caption; may be empty."""


MEASURES = {
    "exact_match": Measure(
        metrics.exact_match,
        "EM",
        "exact match",
        {"token_f1": "F1", "best_subspan_em": "Sub-span", "distraction_rate": "Distracted"},
    ),
    "accuracy": Measure(
        None,
        "Accuracy",
        "accuracy",
        {"exact_match": "Generated"},
        "Accuracy: the option whose letter is likeliest. Generated: the option that the written answer names.",
    ),
    "qasper_f1": Measure(metrics.qasper_token_f1, "F1", "answer F1", {"exact_match": "EM"}),
    "longbench_f1": Measure(
        metrics.longbench_qa_f1, "F1", "answer F1", {"exact_match": "EM", "best_subspan_em": "Sub-span"}
    ),
    "rouge_l": Measure(official.rouge_l, "ROUGE-L", "ROUGE-L", {}),
}
"""By the names that pipeline/views/tasks.py gives benchmarks."""


def distractors(chunks: Iterable[Row], gold_document_ids: Sequence[str]) -> dict[str, str]:
    """Title and text of each document, as far as the chunks show it, that is not gold; none where gold is unknown.

    `chunks` are what the model was given: rows with document_id, title and text.
    """
    if not gold_document_ids:
        return {}
    return {name: text for name, text in document_texts(chunks).items() if name not in gold_document_ids}


def document_texts(chunks: Iterable[Row]) -> dict[str, str]:
    """Title and text of each document, as far as the chunks show it."""
    parts: dict[str, list[str]] = {}
    for chunk in chunks:
        parts.setdefault(chunk["document_id"], [chunk["title"]]).append(chunk["text"])
    return {document_id: "\n".join(texts) for document_id, texts in parts.items()}


def answer_text(generated: str, task: tasks.Task) -> str:
    """What counts as the answer in a generated text."""
    return generated.strip() if task.many_lines else metrics.first_line(generated)


def generated_score(prediction: str, example: Row) -> float:
    """Of the generated text alone: the benchmark's measure, or whether it names the right option."""
    if example["options"]:
        return float(metrics.parse_option(prediction, example["options"]) == example["gold_option"])
    measure = MEASURES[tasks.of(example["benchmark"]).measure].function
    assert measure is not None, "a multiple-choice question has options"
    return measure(prediction, example["answers"])


def score(
    prediction: str, example: Row, distractor_texts: Mapping[str, str], option_log_probs: Sequence[float]
) -> dict[str, Any]:
    """The prediction, its metrics, the class of its error, and which distractor holds it (empty: none).

    A multiple-choice question is scored twice: its `score` is that of the likeliest option (the first of equals), its
    `exact_match` that of the option the prediction names, and an answer that names none is wrong.
    """
    if example["options"]:
        return _score_choice(prediction, example, option_log_probs)
    references = example["answers"]
    error, index = metrics.error_class(prediction, references, list(distractor_texts.values()))
    return {
        "prediction": prediction,
        "generated_option": -1,
        "likeliest_option": -1,
        "option_log_probs": [],
        "score": generated_score(prediction, example),
        "exact_match": metrics.exact_match(prediction, references),
        "token_f1": metrics.token_f1(prediction, references),
        "best_subspan_em": metrics.best_subspan_em(prediction, references),
        "error": error,
        "distractor_id": list(distractor_texts)[index] if index >= 0 else "",
    }


def _score_choice(prediction: str, example: Row, option_log_probs: Sequence[float]) -> dict[str, Any]:
    options, gold = example["options"], example["gold_option"]
    generated = metrics.parse_option(prediction, options)
    likeliest = max(range(len(options)), key=lambda place: option_log_probs[place])
    chosen = options[generated] if generated >= 0 else ""
    return {
        "prediction": prediction,
        "generated_option": generated,
        "likeliest_option": likeliest,
        "option_log_probs": list(option_log_probs),
        "score": float(likeliest == gold),
        "exact_match": float(generated == gold),
        "token_f1": metrics.token_f1(chosen, example["answers"]),
        "best_subspan_em": metrics.best_subspan_em(chosen, example["answers"]),
        "error": "correct" if likeliest == gold else "other",
        "distractor_id": "",
    }


def figures(rows: Sequence[Row], resamples: int, seed: int = 0) -> dict[str, Any]:
    """The same figures over all rows, by number of documents, and by fifth of the context that holds the gold document.

    Rates are between 0 and 1, metrics and distraction rate with 95 % intervals over questions. A row whose gold
    position is unknown is in no position group. distraction_share_of_errors is None where nothing is wrong. `official`
    has what the benchmark's own evaluator prints (official.figures).
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
        "official": official.figures(rows),
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
        return bootstrap.interval(values, question_ids, resamples=resamples, seed=seed)._asdict()

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
