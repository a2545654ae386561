"""Scores a prediction, and aggregates rows of predictions: figures of a method and input, and the difficulty surface.

To add a measure, enter it in MEASURES and name it in pipeline/views/tasks.py.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import polars as pl

from pipeline.common.chunks import Chunk
from pipeline.common.tables import Row, name_sharing_rate_of
from pipeline.evaluation import bootstrap, metrics, multiple_choice, official, rouge
from pipeline.views import tasks

METRICS = ("score", "exact_match", "token_f1", "best_subspan_em")
POSITION_BINS = 5  # equal parts of a context, by which results are grouped by the place of the gold document


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
    right_or_wrong: bool = False
    """True: an answer has 1 or 0, so that a mean is the share of right answers."""
    note: str = ""
    """Explanation in the main table's caption; may be empty."""


MEASURES = {
    "exact_match": Measure(
        metrics.exact_match,
        "EM",
        "exact match",
        {"token_f1": "F1", "best_subspan_em": "Sub-span", "distraction_rate": "Distracted"},
        right_or_wrong=True,
    ),
    "accuracy": Measure(
        None,
        "Accuracy",
        "accuracy",
        {"exact_match": "Generated"},
        right_or_wrong=True,
        note="Accuracy: the option whose letter is likeliest. Generated: the option that the written answer names.",
    ),
    "qasper_f1": Measure(metrics.qasper_token_f1, "F1", "answer F1", {"exact_match": "EM"}),
    "longbench_f1": Measure(
        metrics.longbench_qa_f1, "F1", "answer F1", {"exact_match": "EM", "best_subspan_em": "Sub-span"}
    ),
    "rouge_l": Measure(rouge.rouge_l, "ROUGE-L", "ROUGE-L", {}),
}
"""By the names that pipeline/views/tasks.py gives benchmarks."""


def distractors(chunks: Iterable[Chunk], gold_document_ids: Sequence[str]) -> dict[str, str]:
    """Join title and text of each document in the chunks that is not gold; empty where no document is known as gold."""
    if not gold_document_ids:
        return {}
    return {name: text for name, text in document_texts(chunks).items() if name not in gold_document_ids}


def document_texts(chunks: Iterable[Chunk]) -> dict[str, str]:
    """Join title and text of each document, as far as the chunks contain it."""
    parts: dict[str, list[str]] = {}
    for chunk in chunks:
        parts.setdefault(chunk.document_id, [chunk.title]).append(chunk.text)
    return {document_id: "\n".join(texts) for document_id, texts in parts.items()}


def answer_text(generated: str, task: tasks.Task, references: Sequence[str]) -> str:
    """Extract the answer from a generated text: all of it, or as many lines as a reference has."""
    return generated.strip() if task.many_lines else metrics.first_line(generated, references)


def generated_score(prediction: str, example: Row) -> float:
    """Score the generated text alone: by the benchmark's measure, or by whether it names the right option."""
    if example["options"]:
        return float(multiple_choice.parse_option(prediction, example["options"]) == example["gold_option"])
    measure = MEASURES[tasks.of(example["benchmark"]).measure].function
    assert measure is not None, "a multiple-choice question has options"
    return measure(*_comparable(prediction, example))


def _comparable(prediction: str, example: Row) -> tuple[str, Sequence[str]]:
    """Return prediction and references as metrics compare them; official evaluators compare them as they are."""
    if example["benchmark"] in tasks.TASKS:
        return prediction, example["answers"]
    return metrics.spelt_out(prediction), [metrics.spelt_out(reference) for reference in example["answers"]]


def score(
    prediction: str, example: Row, distractor_texts: Mapping[str, str], option_log_probs: Sequence[float]
) -> dict[str, Any]:
    """Compute the columns of schema.PREDICTIONS from `prediction` to `distractor_id` that depend on the answer.

    A multiple-choice question is scored twice: its `score` is that of the likeliest option (the first of equals), its
    `exact_match` that of the option the prediction names, and an answer that names none is wrong.
    """
    options, references = example["options"], example["answers"]
    generated = likeliest = -1
    if options:
        generated = multiple_choice.parse_option(prediction, options)
        likeliest = max(range(len(options)), key=lambda place: option_log_probs[place])
        answer = options[generated] if generated >= 0 else ""
        points, exact = float(likeliest == example["gold_option"]), float(generated == example["gold_option"])
        error, distractor_id = "correct" if points else "other", ""
    else:
        answer, references = _comparable(prediction, example)
        points, exact = generated_score(prediction, example), metrics.exact_match(answer, references)
        error, distractor_id = metrics.error_class(answer, references, distractor_texts)
    return {
        "prediction": prediction,
        "generated_option": generated,
        "likeliest_option": likeliest,
        "option_log_probs": list(option_log_probs),
        "score": points,
        "exact_match": exact,
        "token_f1": metrics.token_f1(answer, references),
        "best_subspan_em": metrics.best_subspan_em(answer, references),
        "error": error,
        "distractor_id": distractor_id,
    }


def figures(rows: Sequence[Row], resamples: int) -> dict[str, Any]:
    """Compute the same figures over all rows, by number of documents, and by fifth of the context with the gold one.

    Rates are between 0 and 1, metrics and distraction rate with 95 % intervals over questions. A row whose gold
    position is unknown is in no position group. distraction_share_of_errors is None where nothing is wrong. `official`
    has what the benchmark's own evaluator prints (official.figures).
    """
    frame = _frame(rows, "num_documents", "gold_position", "prompt_tokens", *METRICS)
    num, position = pl.col("num_documents"), pl.col("gold_position")
    placed = frame.filter(position >= 0).with_columns(part=position * POSITION_BINS // num)
    return {
        "overall": _of_group(frame, resamples),
        "official": official.figures(rows),
        "by_num_documents": [
            {"num_documents": num_documents, **_of_group(group, resamples)}
            for (num_documents,), group in groups(frame, "num_documents")
        ],
        "by_gold_position": [
            {
                "num_documents": num_documents,
                "first_position": group["gold_position"].min(),
                "last_position": group["gold_position"].max(),
                **_of_group(group, resamples),
            }
            for (num_documents, _), group in groups(placed, "num_documents", "part")
        ],
    }


def surface(rows: Iterable[Row], *, resamples: int) -> list[dict[str, Any]]:
    """Compute a cell for each method, input, number of documents and name-sharing rate, in ascending order.

    `rows` are predictions whose `subset` names the name-sharing rate (`subset_of`). Score and distraction rate lie
    between 0 and 1, with 95 % intervals over questions.
    """
    rows = [{**row, "name_sharing_rate": name_sharing_rate_of(row["subset"])} for row in rows]
    keys = ("method", "input", "num_documents", "name_sharing_rate")
    return [
        {
            **dict(zip(keys, values, strict=True)),
            "num_examples": len(group),
            "score": interval(group, "score", resamples),
            "distraction_rate": interval(group, "distraction_rate", resamples),
        }
        for values, group in groups(_frame(rows, *keys, "score"), *keys)
    ]


def _frame(rows: Iterable[Row], *columns: str) -> pl.DataFrame:
    """Build a frame of these columns, with question_id, error and distraction_rate, 0 or 1 in each row."""
    names = ("question_id", "error", *columns)
    frame = pl.DataFrame([{name: row[name] for name in names} for row in rows], schema=names)
    return frame.with_columns(distraction_rate=(pl.col("error") == "distraction").cast(pl.Float64))


def groups(frame: pl.DataFrame, *keys: str) -> Iterator[tuple[tuple[Any, ...], pl.DataFrame]]:
    """Yield the rows of each combination of the keys, in ascending order; rows keep their order."""
    return iter(frame.sort(keys, maintain_order=True).group_by(keys, maintain_order=True))


def _of_group(group: pl.DataFrame, resamples: int) -> dict[str, Any]:
    errors = group.filter(pl.col("error") != "correct")
    return {
        "n": len(group),
        "num_questions": group["question_id"].n_unique(),
        **{name: interval(group, name, resamples) for name in (*METRICS, "distraction_rate")},
        "distraction_share_of_errors": errors["distraction_rate"].mean(),
        "mean_prompt_tokens": group["prompt_tokens"].mean(),
    }


def interval(group: pl.DataFrame, column: str, resamples: int) -> dict[str, float]:
    """Compute the mean of a column and its 95 % interval over question_id: mean, low, high."""
    values, question_ids = group[column].to_numpy(), group["question_id"].to_list()
    return bootstrap.interval(values, question_ids, resamples=resamples)._asdict()
