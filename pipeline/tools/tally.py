"""The numbers of a benchmark over everybody's predictions, as its own evaluator prints them.

    quality     accuracy and SAT-style score, over all questions and the hard ones; answers that name no option
    qasper      answer F1 over all, by the type of the best reference (official: missing ones in no type) and by that of
                the first annotator (the same questions for everybody); evidence F1 with and without figures and tables
    nq          best-subspan EM, exact match and F1 of the first line
    hotpot      exact match and F1
    longbench   F1
    squality    ROUGE-1, -2 and -L
    jsonl       exact match, F1 and best-subspan EM of the first line, as evaluate has them

Missing predictions count 0, in QuALITY as wrong. A question without references is left out and counted.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from pipeline.evaluation import metrics
from pipeline.tools.outside_predictions import Answered


class Score(NamedTuple):
    """A mean over `n` questions, from 0 to 1 (SAT-style from -1/3); None: there is nothing to take it of."""

    name: str
    value: float | None
    n: int


class Tally(NamedTuple):
    """All scores of one file of predictions, and how many questions and predictions they are of."""

    scores: list[Score]
    num_questions: int
    num_missing: int
    num_left_out: int
    """Questions whose references are lost; not among num_questions."""
    num_unparseable: int | None
    """Answers that name no option or several, counted as wrong; None: no multiple choice."""


def tally(benchmark: str, answered: Sequence[Answered]) -> Tally:
    """Every score of the benchmark, in the order in which it is printed."""
    asked = [item for item in answered if item.reference.answers]
    num_missing = sum(item.prediction is None for item in asked)
    scores, num_unparseable = _quality(asked) if benchmark == "quality" else (_SCORES[benchmark](asked), None)
    return Tally(scores, len(asked), num_missing, len(answered) - len(asked), num_unparseable)


def _quality(asked: Sequence[Answered]) -> tuple[list[Score], int]:
    labels: dict[str, int] = {}
    for item in asked:
        if item.prediction is not None:
            value = item.prediction.value
            # 0 is the label of no option: an answer that names none is no abstention.
            parsed = value if isinstance(value, int) else metrics.parse_option(value, item.reference.options) + 1
            labels[item.reference.names[0]] = parsed
    found = metrics.quality_accuracy(
        labels,
        {
            item.reference.names[0]: {"gold_label": item.reference.label, "difficult": item.reference.difficult}
            for item in asked
        },
    )
    scores = [
        Score("accuracy", found["accuracy"], found["n"]),
        Score("accuracy_hard", found["accuracy_hard"], found["n_hard"]),
        Score("sat_style", found["sat_style"], found["n"]),
        Score("sat_style_hard", found["sat_style_hard"], found["n_hard"]),
    ]
    return scores, sum(label == 0 for label in labels.values())


def _qasper(asked: Sequence[Answered]) -> list[Score]:
    answer_f1: list[float] = []
    evidence_f1: list[float] = []
    text_f1: list[float] = []
    booked: dict[str, list[float]] = {kind: [] for kind in metrics.TYPES}
    first: dict[str, list[float]] = {kind: [] for kind in metrics.TYPES}
    for item in asked:
        annotations = item.reference.annotations
        scores = [0.0, 0.0, 0.0]
        if item.prediction is not None:
            given = {
                "predicted_answer": item.prediction.value,
                "predicted_evidence": item.prediction.evidence or [],
            }
            found = metrics.qasper_scores(given, annotations)
            text_only = metrics.qasper_scores(given, annotations, text_evidence_only=True)
            scores = [found["answer_f1"], found["evidence_f1"], text_only["evidence_f1"]]
            booked[found["booked_type"]].append(scores[0])
        first[metrics.reference(annotations[0]["answer"]).kind].append(scores[0])
        for column, score in zip((answer_f1, evidence_f1, text_f1), scores, strict=True):
            column.append(score)
    if not any(item.prediction is not None and item.prediction.evidence is not None for item in asked):
        # Nobody gave evidence: an empty list would be right for every unanswerable question.
        evidence_f1, text_f1 = [], []
    return [
        _mean("answer_f1", answer_f1),
        *(_mean(f"answer_f1_booked_{kind}", booked[kind]) for kind in metrics.TYPES),
        *(_mean(f"answer_f1_first_{kind}", first[kind]) for kind in metrics.TYPES),
        _mean("evidence_f1", evidence_f1),
        _mean("evidence_f1_text_only", text_f1),
    ]


def _squality(asked: Sequence[Answered]) -> list[Score]:
    # Here, because the library takes long to import and only summaries need it.
    from pipeline.evaluation import rouge

    nothing = dict.fromkeys(("rouge_1", "rouge_2", "rouge_l"), 0.0)
    found = [
        nothing if item.prediction is None else rouge.rouge(str(item.prediction.value), item.reference.answers)
        for item in asked
    ]
    return [_mean(name, [scores[name] for scores in found]) for name in nothing]


def _texts(**functions: Callable[[str, Sequence[str]], float]) -> Callable[[Sequence[Answered]], list[Score]]:
    def score(item: Answered, function: Callable[[str, Sequence[str]], float]) -> float:
        if item.prediction is None:
            return 0.0
        return function(item.reference.cut(str(item.prediction.value)), item.reference.answers)

    return lambda asked: [
        _mean(name, [score(item, function) for item in asked]) for name, function in functions.items()
    ]


def _mean(name: str, values: Sequence[float]) -> Score:
    return Score(name, sum(values) / len(values) if values else None, len(values))


_SCORES: dict[str, Callable[[Sequence[Answered]], list[Score]]] = {
    "qasper": _qasper,
    "nq": _texts(best_subspan_em=metrics.best_subspan_em, exact_match=metrics.exact_match, token_f1=metrics.token_f1),
    "hotpot": _texts(exact_match=metrics.exact_match, f1=metrics.hotpot_f1),
    "longbench": _texts(qa_f1=metrics.longbench_qa_f1),
    "squality": _squality,
    "jsonl": _texts(
        exact_match=metrics.exact_match, token_f1=metrics.token_f1, best_subspan_em=metrics.best_subspan_em
    ),
}
