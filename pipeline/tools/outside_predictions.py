"""Anybody's predictions: rows of a file, whatever their keys are called, beside the questions they answer."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.data.jsonl import Line, Lines
from pipeline.runtime.errors import DataError
from pipeline.tools.references import Reference

NAMES = ("id", "question_id", "question_unique_id", "example_id")
VALUES = ("prediction", "predicted_answer", "model_answer", "answer")
EVIDENCE = "predicted_evidence"
COLUMNS = (*NAMES, "question", *VALUES, EVIDENCE)
LABELS = ("-1", "1", "2", "3", "4")
SHOWN = 5


@dataclass(frozen=True, slots=True)
class Prediction:
    """What one row says."""

    place: str
    names: tuple[str, ...]
    """All that the row gives; the first that is a question's counts."""
    value: str | int
    """A text, or QuALITY's label from 1 (-1 abstains)."""
    evidence: Sequence[str] | None
    """Qasper's paragraphs; None: the row says nothing about evidence."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and its prediction; None: it is missing."""

    reference: Reference
    prediction: Prediction | None


def rows(entries: Lines, benchmark: str) -> Iterator[Line]:
    """The rows of a file that is one JSON value: a list of rows, an object of id and row or prediction.

    HotpotQA's official form has such an object below `answer`, beside the supporting facts.
    """
    for place, entry in entries:
        match entry:
            case ("answer", dict() as answers) if benchmark == "hotpot":
                yield from (_row(f"{place}, {name}", name, value) for name, value in answers.items())
            case ("sp", dict()) if benchmark == "hotpot":
                continue
            case (str() as name, value):
                yield _row(place, name, value)
            case _:
                yield place, entry


def parse(found: Lines, benchmark: str) -> Iterator[Prediction]:
    """The prediction of each row, other keys passed over.

    Raises:
        DataError: a row has no id or no prediction, or one of the wrong type.
    """
    name_keys = (*NAMES, "question") if benchmark == "nq" else NAMES
    for place, row in found:
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object {{...}} with id and prediction, found {_shown(row)}")
        names = tuple(str(row[key]) for key in name_keys if _is_name(row.get(key)))
        if not names:
            raise DataError(f"{place}: there is no id; name the question with one of {', '.join(name_keys)}")
        given = [key for key in VALUES if key in row]
        key = next((key for key in given if row[key] is not None), given[0] if given else "")
        if not key:
            raise DataError(f"{place}: there is no prediction; give it as one of {', '.join(VALUES)}")
        yield Prediction(place, names, _value(place, key, row[key], benchmark), _evidence(place, row.get(EVIDENCE)))


def answered(references: Sequence[Reference], predictions: Iterable[Prediction], hint: str = "") -> list[Answered]:
    """Every question with its prediction, whatever the order of the predictions.

    `hint` follows the message about two predictions of one question.

    Raises:
        DataError: a prediction belongs to no question, or two belong to one.
    """
    index_of = {name: index for index, reference in enumerate(references) for name in reference.names}
    found: dict[int, Prediction] = {}
    extra: list[Prediction] = []
    twice: list[Prediction] = []
    for prediction in predictions:
        index = next((index_of[name] for name in prediction.names if name in index_of), -1)
        if index < 0:
            extra.append(prediction)
        elif found.setdefault(index, prediction) is not prediction:
            twice.append(prediction)
    if extra:
        raise DataError(
            f"{extra[0].place}: {_first(extra)} of no question in the references; score each file of predictions "
            "against the file its questions come from"
        )
    if twice:
        raise DataError(
            f"{twice[0].place}: {_first(twice)} answered a second time; keep one prediction a question{hint}"
        )
    return [Answered(reference, found.get(index)) for index, reference in enumerate(references)]


def _row(place: str, name: str, value: Any) -> Line:
    return place, {**value, "id": name} if isinstance(value, dict) else {"id": name, "prediction": value}


def _is_name(value: Any) -> bool:
    return (isinstance(value, str) and value.strip() != "") or (isinstance(value, int) and not isinstance(value, bool))


def _value(place: str, key: str, value: Any, benchmark: str) -> str | int:
    if isinstance(value, str):
        # Tables and models write labels as text.
        return int(value) if benchmark == "quality" and value.strip() in LABELS else value
    if benchmark != "quality":
        raise DataError(f"{place}: {key} is {_shown(value)}, expected a text; leave the row out if there is none")
    if isinstance(value, bool) or not isinstance(value, int) or value not in (-1, 1, 2, 3, 4):
        raise DataError(
            f"{place}: {key} is {_shown(value)}, expected a label from 1 to 4, -1 to abstain, or the text of an answer"
        )
    return value


def _evidence(place: str, value: Any) -> Sequence[str] | None:
    if value is None or (isinstance(value, list) and all(isinstance(text, str) for text in value)):
        return value
    raise DataError(f"{place}: {EVIDENCE} is {_shown(value)}, expected a list of texts")


def _first(predictions: Sequence[Prediction]) -> str:
    names = ", ".join(_shown(prediction.names[0]) for prediction in predictions[:SHOWN])
    more = ", ..." if len(predictions) > SHOWN else ""
    many = len(predictions) > 1
    return f"{len(predictions):,} prediction{'s' * many} ({names}{more}) {'are' if many else 'is'}"


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."
