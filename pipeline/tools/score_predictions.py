"""Scores anybody's predictions by the official rules of a benchmark.

    python -m pipeline.tools.score_predictions --predictions FILE --references FILE --benchmark NAME

PREDICTIONS has rows with an id (id, question_id, question_unique_id or example_id; for nq also question) and a
prediction (prediction, predicted_answer, model_answer or answer; for Qasper also predicted_evidence): Parquet, JSON in
any layout of data/jsonl.py, or one JSON object by id, whatever the file's name. For QuALITY a prediction is a label
from 1, -1 to abstain, or a generated answer; the leaderboard's form, a line `<id>,<label>` each, is read from .csv and
.txt. The file that evaluate writes, reports/predictions/<method>.parquet, is read too.

REFERENCES is the official file of the benchmark; for jsonl it is our own questions.jsonl, of which the test questions
are scored, or rows that qa_rows.py reads. Of our own predictions on QuALITY the written answers are scored; the
accuracy of the likeliest options is in reports/eval. Questions without a prediction count as wrong. A prediction of no
question, and a second prediction of one question, are refused.
Each prediction becomes a row like those of stage evaluate, and evaluation/official.py computes the scores.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.common import files, tables
from pipeline.data import jsonl
from pipeline.data.benchmarks import hotpot, longbench, nq, own_jsonl, qasper, quality, squality
from pipeline.data.jsonl import Line, Lines
from pipeline.evaluation import metrics, multiple_choice, official, schema, score
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.tools.arguments import ArgumentParser, one_of

INPUTS = ("full", "retrieval", "longbench")
NAMES = ("id", "question_id", "question_unique_id", "example_id")
VALUES = ("prediction", "predicted_answer", "model_answer", "answer")
EVIDENCE = "predicted_evidence"
EVIDENCE_SCORES = ("evidence_f1", "evidence_f1_text_only")
LABELS = ("-1", "1", "2", "3", "4")
SHOWN = 5
REJECTS = jsonl.Rejects()
"""Refuses a file at its first bad line."""

# LongBench scores these tasks by F1; of all but triviaqa it reads the whole prediction.
_LONGBENCH = ("narrativeqa", "qasper", "multifieldqa_en", "hotpotqa", "2wikimqa", "musique", "triviaqa")
_OWN_COLUMNS = ["example_id", "question_id", "benchmark", "input", "num_documents", "gold_position", "prediction"]


class Reference(NamedTuple):
    """A question of an official file; the fields from `answers` to `subset` are those of tables.Example."""

    names: tuple[str, ...]
    """A prediction may use any of them; the first one is shown."""
    answers: Sequence[str]
    """Empty: the question is left out."""
    answer_types: Sequence[str] = ()
    options: Sequence[str] = ()
    gold_option: int = -1
    subset: str = ""
    cut: Callable[[str], str] = str
    """Reduces a prediction to the part that the official script reads."""
    evidence: Sequence[Sequence[str]] = ()
    """Qasper's paragraphs, by annotator."""


class ForeignPrediction(NamedTuple):
    """A row of the file of predictions."""

    place: str
    names: tuple[str, ...]
    """All names in the row; the first that belongs to a question counts."""
    value: str | int
    """A text, or QuALITY's label from 1 (-1 abstains)."""
    evidence: Sequence[str] | None
    """Qasper's paragraphs; None: the row has none."""


class OfficialFile(NamedTuple):
    """How the official file of a benchmark is read, and which scores are printed."""

    questions: Callable[[Lines], Iterator[tuple[str, Reference]]]
    """Yields the place of a question and the question. Raises DataError at what is none."""
    scores: Mapping[str, str]
    """Printed name -> name in evaluation/official.py."""


def main(arguments: list[str]) -> None:
    """Print the table, and write the numbers if asked to.

    Raises:
        ConfigError: the arguments are not understood.
        DataError: a file cannot be read as what it claims to be, or predictions and references do not belong together.
    """
    asked = _parsed(arguments)
    for path in (asked.predictions, asked.references):
        if not path.is_file():
            raise DataError(f"{path}: no such file; give the path of a file of predictions, or of references")
    references = read_references(asked.benchmark, jsonl.JsonRows([asked.references], REJECTS))
    own = _is_own(asked.predictions)
    predictions = list(parse(_own_rows(asked) if own else _rows(asked.predictions, asked.benchmark), asked.benchmark))
    if not predictions:
        raise DataError(f"{asked.predictions}: there is not one prediction; give the path of a file that has some")
    hint = f" of one kind of context: --num-documents N, --gold-position N (input {asked.input})" if own else ""
    found = totals(asked.benchmark, references, pair(references, predictions, hint))
    if asked.json is not None:
        files.write_json(asked.json, found)
    print("\n".join(table(found)))


def totals(
    benchmark: str, references: Sequence[Reference], predictions: Sequence[ForeignPrediction | None]
) -> dict[str, Any]:
    """Compute all scores, from 0 to 1 (None: no question), and how many questions and predictions they are of.

    The prediction of each reference stands in its place; None: it is missing.
    """
    pairs = [pair for pair in zip(references, predictions, strict=True) if pair[0].answers]
    rows = [_row(benchmark, reference, prediction) for reference, prediction in pairs]
    given = [row for row, (_, prediction) in zip(rows, pairs, strict=True) if prediction is not None]
    evaluator = official.column_means(*BENCHMARKS["jsonl"].scores) if benchmark == "jsonl" else official.scores
    found = evaluator(rows)
    if benchmark == "qasper":
        # The official evaluator counts a missing prediction in no type of its best reference.
        found = {name: value for name, value in found.items() if "_booked_" not in name}
        found |= {name: value for name, value in evaluator(given).items() if "_booked_" in name}
        # Where no row has evidence there is no score: no evidence would be right for every unanswerable question.
        if any(prediction is not None and prediction.evidence is not None for _, prediction in pairs):
            found |= official.column_means(*EVIDENCE_SCORES)(rows)
    nothing = official.mean([])
    return {
        "benchmark": benchmark,
        "num_questions": len(pairs),
        "num_missing": len(pairs) - len(given),
        "num_left_out": len(references) - len(pairs),
        "num_unparseable": sum(row["generated_option"] == -1 for row in given) if benchmark == "quality" else None,
        "scores": {
            printed: found.get(name, nothing)._asdict() for printed, name in BENCHMARKS[benchmark].scores.items()
        },
    }


def table(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the counts in one line, then a line for each score in percent, or "-"; columns are aligned."""
    worth = "wrong" if found["benchmark"] == "quality" else "0"  # SAT-style takes a third of a point off a wrong answer
    counts = [
        f"{found['num_questions']:,} questions",
        f"{found['num_missing']:,} without a prediction, counted as {worth}",
    ]
    if found["num_unparseable"] is not None:
        counts.append(f"{found['num_unparseable']:,} answers that name no single option, counted as wrong")
    if found["num_left_out"]:
        counts.append(f"{found['num_left_out']:,} left out, their references are lost")
    yield f"{found['benchmark']}: {'; '.join(counts)}"
    lines = [("score", "percent", "n")]
    for name, of in found["scores"].items():
        lines.append((name, "-" if of["value"] is None else f"{100 * of['value']:.2f}", f"{of['n']:,}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, value, n in lines:
        yield f"{name:<{widths[0]}}  {value:>{widths[1]}}  {n:>{widths[2]}}"


def read_references(benchmark: str, found: Lines) -> list[Reference]:
    """Read the questions of an official file in order.

    Raises:
        DataError: a line is no question, a question stands twice, or there is none.
    """
    place_of: dict[str, str] = {}
    references = []
    for place, reference in BENCHMARKS[benchmark].questions(found):
        for name in reference.names:
            jsonl.refuse_twice(place_of, place, f"question {name!r}")
        references.append(reference)
    if not references:
        raise DataError(f"the references hold no question of {benchmark}; give the official file of that benchmark")
    return references


def parse(found: Lines, benchmark: str) -> Iterator[ForeignPrediction]:
    """Yield the prediction of each row; keys that are not known are ignored.

    Raises:
        DataError: a row has no id or no prediction, or one of the wrong type.
    """
    name_keys = (*NAMES, "question") if benchmark == "nq" else NAMES
    for place, row in found:
        if not isinstance(row, dict):
            raise DataError(f"{place}: expected an object {{...}} with id and prediction, found {jsonl.shown(row)}")
        names = tuple(str(row[key]) for key in name_keys if type(row.get(key)) in (int, str) and str(row[key]).strip())
        if not names:
            raise DataError(f"{place}: there is no id; name the question with one of {', '.join(name_keys)}")
        given = sorted((key for key in VALUES if key in row), key=lambda key: row[key] is None)
        if not given:
            raise DataError(f"{place}: there is no prediction; give it as one of {', '.join(VALUES)}")
        evidence = row.get(EVIDENCE)
        if evidence is not None and not (
            isinstance(evidence, list) and all(isinstance(text, str) for text in evidence)
        ):
            raise DataError(f"{place}: {EVIDENCE} is {jsonl.shown(evidence)}, expected a list of texts")
        yield ForeignPrediction(place, names, _value(place, given[0], row[given[0]], benchmark), evidence)


def pair(
    references: Sequence[Reference], predictions: Iterable[ForeignPrediction], hint: str = ""
) -> list[ForeignPrediction | None]:
    """Find the prediction of each reference, whatever the order of the predictions; None where it is missing.

    `hint` follows the message about two predictions of one question.

    Raises:
        DataError: a prediction belongs to no question, or two belong to one.
    """
    index_of = {name: index for index, reference in enumerate(references) for name in reference.names}
    found: dict[int, ForeignPrediction] = {}
    extra: list[ForeignPrediction] = []
    twice: list[ForeignPrediction] = []
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
    return [found.get(index) for index in range(len(references))]


def _row(benchmark: str, reference: Reference, prediction: ForeignPrediction | None) -> tables.Row:
    """Build the columns of schema.PREDICTIONS that official scores read; all scores of a missing prediction are 0."""
    row: tables.Row = {"benchmark": benchmark, "example_id": reference.names[0], **reference._asdict()}
    value = "" if prediction is None else prediction.value
    if benchmark == "quality":
        # Options count from 0, labels from 1: an abstention, label -1, is option -2; -1 is an answer that names none.
        option = value - 1 if isinstance(value, int) else multiple_choice.parse_option(value, row["options"])
        return {**row, "generated_option": option, "likeliest_option": option}
    row |= score.score(reference.cut(str(value)), row, {}, [])
    if prediction is None:
        return row | dict.fromkeys((*score.METRICS, *EVIDENCE_SCORES), 0.0)
    if benchmark == "qasper":
        evidence = prediction.evidence or []
        for name, text_only in zip(EVIDENCE_SCORES, (False, True), strict=True):
            row[name] = metrics.qasper_evidence_f1(evidence, reference.evidence, text_only)
    return row


def _parsed(arguments: Sequence[str]) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="python -m pipeline.tools.score_predictions",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--predictions", "--score", type=Path, required=True, metavar="FILE")
    parser.add_argument("--references", type=Path, required=True, metavar="FILE")
    names = ", ".join(BENCHMARKS)
    parser.add_argument("--benchmark", type=one_of(tuple(BENCHMARKS)), required=True, metavar="NAME", help=names)
    parser.add_argument(
        "--input", type=one_of(INPUTS), default="full", metavar="NAME", help=f"of our own: {', '.join(INPUTS)}"
    )
    parser.add_argument("--num-documents", type=int, metavar="N", help="of our own: contexts of this size only")
    parser.add_argument(
        "--gold-position", type=int, metavar="N", help="of our own: gold there only, from 0; -1: unknown"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser.parse_args(arguments)


def _rows(path: Path, benchmark: str) -> Iterable[Line]:
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".txt")) and benchmark == "quality":
        return _leaderboard_rows(path)
    found = list(jsonl.JsonRows([path], REJECTS))
    return by_id(*found[0], benchmark) if len(found) == 1 else found


def by_id(place: str, only: Any, benchmark: str) -> Iterator[Line]:
    """Yield the rows of a file's only value, which may be an object of id and row or prediction.

    HotpotQA's official form has such an object below `answer`, beside the supporting facts.
    """
    match only:
        case {"answer": dict() as answers} if benchmark == "hotpot":
            found = answers
        case dict() if not any(key in only for key in (*NAMES, *VALUES, "question")):
            found = only
        case _:
            yield place, only
            return
    for name, value in found.items():
        row = {**value, "id": name} if isinstance(value, dict) else {"id": name, "prediction": value}
        yield f"{place}, {name}", row


def _leaderboard_rows(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from None
    for number, line in enumerate(text.splitlines(), start=1):
        name, comma, label = line.rpartition(",")
        if line.strip():
            place = f"{path}, line {number}"
            if not comma or label.strip() not in LABELS:
                raise DataError(
                    f"{place}: expected `<id>,<label>` with a label from 1 to 4, or -1; found {line[:60]!r}"
                )
            yield place, {"id": name.strip(), "prediction": int(label)}


def _is_own(path: Path) -> bool:
    """Whether stage evaluate wrote the file."""
    try:
        marks = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException):
        return False  # no Parquet file; or a broken one, which its reader names
    return bool(marks.get(b"table") == schema.PREDICTIONS.name.encode())


def _own_rows(asked: argparse.Namespace) -> Iterator[Line]:
    path: Path = asked.predictions
    found = tables.frame(schema.PREDICTIONS.at(path), _OWN_COLUMNS).with_row_index("row", offset=1)
    for other in found["benchmark"].unique():
        if other != asked.benchmark:
            raise DataError(f"{path}: predictions of {other}, not of {asked.benchmark}; name that with --benchmark")
    chosen = {"input": asked.input, "num_documents": asked.num_documents, "gold_position": asked.gold_position}
    wanted = {name: value for name, value in chosen.items() if value is not None}
    found = found.filter(**wanted)
    if found.is_empty():
        kind = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in wanted.items())
        raise DataError(f"{path}: no predictions of {kind}; choose with --input, --num-documents and --gold-position")
    for row in found.iter_rows(named=True):
        yield f"{path}, row {row['row']}", row


def _value(place: str, key: str, value: Any, benchmark: str) -> str | int:
    # Tables and models write labels as text.
    if benchmark == "quality" and type(value) in (int, str) and str(value).strip() in LABELS:
        return int(value)
    if isinstance(value, str):
        return value
    expected = "a text; leave the row out if there is none"
    if benchmark == "quality":
        expected = "a label from 1 to 4, -1 to abstain, or the text of an answer"
    raise DataError(f"{place}: {key} is {jsonl.shown(value)}, expected {expected}")


def _first(predictions: Sequence[ForeignPrediction]) -> str:
    names = ", ".join(jsonl.shown(prediction.names[0]) for prediction in predictions[:SHOWN])
    more = ", ..." if len(predictions) > SHOWN else ""
    many = len(predictions) > 1
    return f"{len(predictions):,} prediction{'s' * many} ({names}{more}) {'are' if many else 'is'}"


def _quality(found: Lines) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, quality.QualityRecord, REJECTS.reject):
        for name, question in record.by_id():
            label, options = question.gold_label, question.options
            if label is None or not 1 <= label <= len(options):
                raise DataError(
                    f"{place}, question {name}: gold_label is {label}, expected 1 to {len(options)}; the labels of the "
                    "official test file are hidden"
                )
            subset = "hard" if question.difficult else ""
            right = [options[label - 1]]
            yield place, Reference((name,), right, options=options, gold_option=label - 1, subset=subset)


def _qasper(found: Lines) -> Iterator[tuple[str, Reference]]:
    for place, paper in jsonl.parse(qasper.with_paper_ids(found), qasper.Paper, REJECTS.reject):
        for question in paper.qas:
            answers = [annotation.answer for annotation in question.answers]
            texts, types = [answer.reference[0] for answer in answers], [answer.reference[1] for answer in answers]
            if not all(types):
                raise DataError(f"{place}, question {question.question_id}: an annotator's answer says nothing")
            evidence = [[] if answer.unanswerable else answer.evidence for answer in answers]
            yield place, Reference((question.question_id,), texts, types, evidence=evidence)


def _nq(found: Lines) -> Iterator[tuple[str, Reference]]:
    for question in nq.questions(found, REJECTS.reject):
        names = (question.text, question.question_id)
        yield question.place, Reference(names, question.answers, cut=metrics.first_line)


def _hotpot(found: Lines) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, hotpot.HotpotRecord, REJECTS.reject):
        yield place, Reference((record.id,), [record.answer])


def _longbench(found: Lines) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, longbench.LongbenchRecord, REJECTS.reject):
        task = record.dataset.removesuffix("_e")
        if task and task not in _LONGBENCH:
            raise DataError(
                f"{place}: dataset is {task!r}, scored here are those that LongBench scores by F1: "
                f"{', '.join(_LONGBENCH)}"
            )
        yield place, Reference((record.id,), record.answers, cut=_first_filled_line if task == "triviaqa" else str)


def _squality(found: Lines) -> Iterator[tuple[str, Reference]]:
    for place, record in jsonl.parse(found, squality.SqualityRecord, REJECTS.reject):
        for question in record.questions:
            number = question.question_number
            names = (f"{record.document_id}-{number}", f"{record.passage_id}-{number}")
            yield place, Reference(names, question.summaries)


def _jsonl(found: Lines) -> Iterator[tuple[str, Reference]]:
    for place, line, _ in own_jsonl.questions({"test": found}, REJECTS.reject, Counter()):
        if line.split == "test":
            yield place, Reference((line.id,), line.answers, cut=partial(metrics.first_line, references=line.answers))


def _first_filled_line(text: str) -> str:
    return text.lstrip("\n").split("\n")[0]


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


BENCHMARKS: dict[str, OfficialFile] = {
    "quality": OfficialFile(
        _quality, {name: f"{name}_generated" for name in ("accuracy", "accuracy_hard", "sat_style", "sat_style_hard")}
    ),
    "qasper": OfficialFile(
        _qasper,
        _same(
            "answer_f1",
            *(f"answer_f1_{part}_{kind}" for part in ("booked", "first") for kind in metrics.TYPES),
            *EVIDENCE_SCORES,
        ),
    ),
    "nq": OfficialFile(_nq, _same("best_subspan_em", "exact_match", "token_f1")),
    "hotpot": OfficialFile(_hotpot, {"exact_match": "exact_match", "f1": "answer_f1"}),
    "longbench": OfficialFile(_longbench, {"qa_f1": "score"}),
    "squality": OfficialFile(_squality, _same("rouge_1", "rouge_2", "rouge_l")),
    "jsonl": OfficialFile(_jsonl, _same("exact_match", "token_f1", "best_subspan_em")),
}


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
