"""Stage report: the summary, the table and the page, from what the other stages measured. No torch.

`--show` prints the table of the last run and where its page is, and does nothing else.
"""

import csv
import json
import sys
from pathlib import Path
from typing import Any

from pipeline import config, files, tables
from pipeline.core import ablations, page, readings, summary, wording
from pipeline.errors import ArtifactError, ConfigError, run
from pipeline.settings import ReportStage

PREDICTIONS, CURVES = Path("reports/predictions"), Path("reports/train")
EXAMPLES, DOCUMENTS = Path("data/examples.parquet"), Path("data/documents.parquet")
SOURCES = {  # of the page and the summary; name -> file and who wrote it
    "prepare": (Path("reports/prepare.json"), "prepare"),
    "retrieval": (Path("reports/retrieval.json"), "score"),
    "validation": (Path("reports/validation.json"), "validate"),
    "tokenize": (Path("reports/tokenize.json"), "tokenize"),
    "mask": (Path("reports/mask.json"), "mask"),
    "analysis": (Path("reports/analysis.json"), "analyze"),
    "base": (Path("models/base/base.json"), "base"),
}
PAGE, SUMMARY, TABLE = Path("reports/index.html"), Path("reports/summary.json"), Path("reports/table.md")
ABLATIONS = Path("reports/ablations.json")  # of `make ablations`, in git
NUM_READINGS = 10


def main() -> None:
    if sys.argv[1:] == ["--show"]:
        show()
        return
    if sys.argv[1:]:
        raise ConfigError(f"report takes no arguments but --show, got {' '.join(sys.argv[1:])}")
    settings = config.load(ReportStage)
    predictions = _predictions()
    found = summary.summarise(predictions, resamples=settings.eval.bootstrap_resamples)
    sources = {name: files.read_json(path, stage) for name, (path, stage) in SOURCES.items()}
    errors = readings.choose(predictions, num=NUM_READINGS, longest=found.lengths[-1].low)
    contents = page.Contents(
        title=settings.report.title,
        summary=found,
        curves=_curves(),
        readings=_readings(errors, predictions),
        sources=sources,
        settings=settings.model_dump(),
        ablations=_ablations(),
    )
    files.write_text(PAGE, page.render(contents))
    files.write_text(TABLE, wording.table(found))
    files.write_json(SUMMARY, summary.record(found, {**sources, "settings": settings.model_dump()}))
    print(
        f"report: {len(predictions):,} answers of {len(found.longest)} combinations of method and input, "
        f"{len(errors)} distraction errors to read; {PAGE}"
    )


def show() -> None:
    """Print the table and the path of the page.

    Raises:
        ArtifactError: there is no report yet.
    """
    for path in (TABLE, PAGE):
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file, so there is no report to show yet; run `make repro` first")
    print(f"\n{TABLE.read_text(encoding='utf-8')}\nreport: {PAGE.resolve()}")


def _predictions() -> list[tables.Row]:
    """Of every file in the folder; the file's name is the method's."""
    paths = sorted(PREDICTIONS.glob("*.parquet"))
    if not paths:
        raise ArtifactError(f"{PREDICTIONS}: no predictions; run `dvc repro evaluate` first")
    columns = list(summary.COLUMNS)
    return [{**row, "method": path.stem} for path in paths for row in tables.scan(path, tables.PREDICTIONS, columns)]


def _ablations() -> ablations.Table:
    try:
        return ablations.parse(json.loads(ABLATIONS.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, ArtifactError) as error:
        what = "no such file" if isinstance(error, FileNotFoundError) else f"not an ablation table ({error})"
        raise ArtifactError(f"{ABLATIONS}: {what}; run `git checkout {ABLATIONS}` or `make ablations`") from None


def _curves() -> page.Curves:
    """Of every training, from the TSV files that DVCLive wrote; the folder's name is the method's."""
    if not CURVES.is_dir():
        raise ArtifactError(f"{CURVES}: no such folder; run `dvc repro train` first")
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for path in sorted(CURVES.rglob("*.tsv")):
        method, name = path.relative_to(CURVES).parts[0], path.stem
        with path.open(encoding="utf-8", newline="") as file:
            try:
                steps = [(int(row["step"]), float(row[name])) for row in csv.DictReader(file, delimiter="\t")]
            except (KeyError, TypeError, ValueError) as error:
                raise ArtifactError(
                    f"{path}: not a curve of step and {name} ({error}); run `dvc repro -f train@{method}`"
                ) from None
        curves.setdefault(method, {})[name] = steps
    return curves


def _readings(errors: list[readings.Row], predictions: list[tables.Row]) -> list[readings.Reading]:
    """The examples and documents of the chosen errors; the files are streamed, nothing else stays."""
    wanted = {error["example_id"] for error in errors}
    example_of = {
        row["example_id"]: row for row in tables.scan(EXAMPLES, tables.EXAMPLES) if row["example_id"] in wanted
    }
    if missing := sorted(wanted - example_of.keys()):
        raise ArtifactError(f"{EXAMPLES}: example {missing[0]} of {PREDICTIONS} is not there; run `dvc repro evaluate`")
    shown = {document_id for example in example_of.values() for document_id in example["document_ids"]}
    document_of = {
        row["document_id"]: row for row in tables.scan(DOCUMENTS, tables.DOCUMENTS) if row["document_id"] in shown
    }
    if missing := sorted(shown - document_of.keys()):
        raise ArtifactError(
            f"{DOCUMENTS}: document {missing[0]} of {EXAMPLES} is not there; run `dvc repro -f prepare`"
        )
    answered: dict[str, list[Any]] = {example_id: [] for example_id in wanted}
    for row in sorted(predictions, key=lambda row: (summary.method_order(row["method"]), row["input"])):
        if row["example_id"] in wanted:
            answered[row["example_id"]].append(row)
    return [
        readings.reading(error, example_of[error["example_id"]], document_of, answered[error["example_id"]])
        for error in errors
    ]


if __name__ == "__main__":
    run(main)
