"""Scores anybody's predictions by the official rules of a benchmark.

    python -m pipeline.tools.score_predictions --score ...

PREDICTIONS are rows with an id (id, question_id, question_unique_id or example_id; for nq also question) and a
prediction (prediction, predicted_answer, model_answer or answer; for Qasper also predicted_evidence): JSONL, Parquet,
one JSON list, or one JSON object by id; gzipped or not. For QuALITY a prediction is a label from 1, -1 to abstain, or a
generated answer; the leaderboard's form, a line `<id>,<label>` each, is read from .csv and .txt. What evaluate writes,
reports/predictions/<method>.parquet, is read too.

REFERENCES is the official file of the benchmark, for jsonl our own questions.jsonl, of which split test is scored.
Of our own predictions on QuALITY the written answers are scored; the likeliest options' accuracy is in reports/eval.
Questions without a prediction count as wrong; a prediction of no question, or a second one of the same, is refused.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.common import files
from pipeline.data import jsonl
from pipeline.data.jsonl import Line
from pipeline.evaluation import schema
from pipeline.runtime.errors import DataError
from pipeline.runtime.main import run
from pipeline.tools import arguments, outside_predictions, references
from pipeline.tools.tally import Tally, tally

INPUTS = ("full", "retrieval", "longbench")
_OWN_COLUMNS = ["example_id", "question_id", "benchmark", "input", "num_documents", "gold_position", "prediction"]


def main(words: list[str]) -> None:
    """Print the table, and write the numbers if asked to.

    Raises:
        ConfigError: the arguments are wrong.
        DataError: a file cannot be read as what it claims to be, or predictions and references do not belong together.
    """
    asked = _parsed(words)
    for path in (asked.score, asked.references):
        if not path.is_file():
            raise DataError(f"{path}: no such file; give the path of a file of predictions, or of references")
    rejects = jsonl.Rejects()
    reader = jsonl.JsonEntries if asked.benchmark in references.WHOLE else jsonl.JsonLines
    questions = references.read(asked.benchmark, reader([asked.references], rejects), rejects.reject)
    own = _is_own(asked.score)
    rows = _own_rows(asked) if own else _rows(asked)
    hint = f" of one kind of context: --num-documents N, --gold-position N (input {asked.input})" if own else ""
    predictions = list(outside_predictions.parse(rows, asked.benchmark))
    if not predictions:
        raise DataError(f"{asked.score}: there is not one prediction; give the path of a file that has some")
    found = tally(asked.benchmark, outside_predictions.answered(questions, predictions, hint))
    if asked.json is not None:
        files.write_json(asked.json, numbers(asked.benchmark, found))
    print("\n".join(table(asked.benchmark, found)))


def table(benchmark: str, found: Tally) -> Iterator[str]:
    """The counts in one line, then a line for each score in percent, or "-"; columns aligned."""
    worth = "wrong" if benchmark == "quality" else "0"  # SAT-style takes a third of a point off a wrong answer
    counts = [f"{found.num_questions:,} questions", f"{found.num_missing:,} without a prediction, counted as {worth}"]
    if found.num_unparseable is not None:
        counts.append(f"{found.num_unparseable:,} answers that name no single option, counted as wrong")
    if found.num_left_out:
        counts.append(f"{found.num_left_out:,} left out, their references are lost")
    yield f"{benchmark}: {'; '.join(counts)}"
    lines = [("score", "percent", "n")]
    lines += [(name, "-" if value is None else f"{100 * value:.2f}", f"{n:,}") for name, value, n in found.scores]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for name, value, n in lines:
        yield f"{name:<{widths[0]}}  {value:>{widths[1]}}  {n:>{widths[2]}}"


def numbers(benchmark: str, found: Tally) -> dict[str, object]:
    """All of it, scores from 0 to 1 (None: nothing to take it of), for a JSON file."""
    return {
        "benchmark": benchmark,
        "num_questions": found.num_questions,
        "num_missing": found.num_missing,
        "num_left_out": found.num_left_out,
        "num_unparseable": found.num_unparseable,
        "scores": {score.name: {"value": score.value, "n": score.n} for score in found.scores},
    }


def _parsed(words: Sequence[str]) -> argparse.Namespace:
    parser = arguments.ArgumentParser(
        prog="python -m pipeline.tools.score_predictions", description=__doc__, allow_abbrev=False
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--score", type=Path, required=True, metavar="PREDICTIONS")
    parser.add_argument("--references", type=Path, required=True, metavar="FILE")
    benchmark, inputs = arguments.one_of(references.BENCHMARKS), arguments.one_of(INPUTS)
    parser.add_argument(
        "--benchmark", type=benchmark, required=True, metavar="NAME", help=", ".join(references.BENCHMARKS)
    )
    parser.add_argument(
        "--input", type=inputs, default="full", metavar="NAME", help=f"of our own: {', '.join(INPUTS)}; else full"
    )
    parser.add_argument("--num-documents", type=int, metavar="N", help="of our own: contexts of this size only")
    parser.add_argument(
        "--gold-position", type=int, metavar="N", help="of our own: gold there only, from 0; -1: unknown"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser.parse_args(words)


def _rows(asked: argparse.Namespace) -> Iterator[Line]:
    path: Path = asked.score
    name = path.name.removesuffix(".gz")
    if _is_parquet(path):
        return _parquet_rows(path)
    if name.endswith(".json"):
        return outside_predictions.rows(jsonl.JsonEntries([path], jsonl.Rejects()), asked.benchmark)
    if name.endswith((".csv", ".txt")) and asked.benchmark == "quality":
        return _leaderboard_rows(path)
    return iter(jsonl.JsonLines([path], jsonl.Rejects()))


def _leaderboard_rows(path: Path) -> Iterator[Line]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 (byte {error.start + 1}); save the file as UTF-8") from None
    for number, line in enumerate(text.splitlines(), start=1):
        name, comma, label = line.rpartition(",")
        if line.strip():
            place = f"{path}, line {number}"
            if not comma or label.strip() not in outside_predictions.LABELS:
                raise DataError(
                    f"{place}: expected `<id>,<label>` with a label from 1 to 4, or -1; found {line[:60]!r}"
                )
            yield place, {"id": name.strip(), "prediction": int(label)}


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1" or path.suffix == ".parquet"


def _is_own(path: Path) -> bool:
    """Written by evaluate."""
    if not _is_parquet(path):
        return False
    # Here, because only Parquet files need pyarrow, which takes as long to import as everything else together.

    marks = _opened(path).schema_arrow.metadata or {}
    return bool(marks.get(b"table") == schema.PREDICTIONS.name.encode())


def _own_rows(asked: argparse.Namespace) -> Iterator[Line]:
    from pipeline.common import tables

    path: Path = asked.score
    chosen = {"input": asked.input, "num_documents": asked.num_documents, "gold_position": asked.gold_position}
    wanted = {name: value for name, value in chosen.items() if value is not None}
    num_taken = 0
    for number, row in enumerate(tables.scan(path, schema.PREDICTIONS, _OWN_COLUMNS), start=1):
        if row["benchmark"] != asked.benchmark:
            raise DataError(
                f"{path}: predictions of {row['benchmark']}, not of {asked.benchmark}; name that with --benchmark"
            )
        if all(row[name] == value for name, value in wanted.items()):
            num_taken += 1
            yield f"{path}, row {number}", row
    if num_taken == 0:
        kind = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in wanted.items())
        raise DataError(f"{path}: no predictions of {kind}; choose with --input, --num-documents and --gold-position")


def _parquet_rows(path: Path) -> Iterator[Line]:
    import pyarrow as pa

    file = _opened(path)
    columns = [name for name in outside_predictions.COLUMNS if name in file.schema_arrow.names]
    number = 0
    try:
        for batch in file.iter_batches(columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _opened(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
    return DataError(f"{path}: not a whole Parquet file ({first_line}); fetch or write it again")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
