"""Stage report: the summary, the table and the page, from what the other stages measured. No torch.

`--show` prints the table of the last run, where its page is, and what the page cannot hold, for it is no function of
its inputs: the commit and the times of the stages. It does nothing else.
"""

import csv
import hashlib
import sys
from pathlib import Path
from typing import Any

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.report import grid_record, page, plots, readings, result_figures, summary, wording
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.main import commit, latest_seconds, run

PREDICTIONS, CURVES, SURFACE = Path("reports/predictions"), Path("reports/train"), Path("reports/surface")
EXAMPLES, DOCUMENTS = Path("data/examples.parquet"), Path("data/documents.parquet")
MASKED = Path("data/views/masked.parquet")
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
BY_LENGTH, BY_POSITION = Path("reports/plots/by_num_documents.csv"), Path("reports/plots/by_gold_position.csv")
NUM_READINGS = 40


def main() -> None:
    if sys.argv[1:] == ["--show"]:
        show()
        return
    if sys.argv[1:]:
        raise ConfigError(f"report takes no arguments but --show, got {' '.join(sys.argv[1:])}")
    settings = config.load("report")
    predictions = _predictions()
    found = summary.summarise(predictions, resamples=settings.eval.bootstrap_resamples)
    sources = {name: files.read_json(path, stage) for name, (path, stage) in SOURCES.items()}
    chosen = readings.choose(predictions, num=NUM_READINGS, longest=found.lengths[-1].low)
    contents = page.Contents(
        title=settings.report.title,
        summary=found,
        curves=_curves(),
        readings=_readings(chosen, predictions),
        sources=sources,
        settings=settings.model_dump(),
        surface=_surface(),
        versions=_versions(),
        inputs=_inputs(),
        ablations=grid_record.read(),
    )
    files.write_text(PAGE, page.render(contents))
    files.write_text(TABLE, wording.table(found))
    files.write_text(BY_LENGTH, plots.scores(found.longest, found.by_length, "num_documents"))
    files.write_text(BY_POSITION, plots.scores(found.longest, found.by_position, "gold_position"))
    files.write_json(SUMMARY, summary.record(found, {**sources, "settings": settings.model_dump()}))
    print(
        f"report: {len(predictions):,} answers of {len(found.longest)} combinations of method and input, "
        f"{len(chosen)} examples to read; {PAGE}"
    )


def show() -> None:
    """Print the table, the commit, the times of the stages here, and the path of the page.

    Raises:
        ArtifactError: there is no report yet.
    """
    for path in (TABLE, PAGE):
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file, so there is no report to show yet; run `make repro` first")
    print(f"\n{TABLE.read_text(encoding='utf-8')}\ncode: {commit()}")
    if seconds := latest_seconds():
        listed = ", ".join(f"{stage} {taken:,.1f} s" for stage, taken in seconds.items())
        print(f"last executed here: {listed}; {sum(seconds.values()):,.1f} s in all")
    print(f"report: {PAGE.resolve()}")


def _predictions() -> list[tables.Row]:
    """Of every file in the folder; the file's name is the method's."""
    paths = sorted(PREDICTIONS.glob("*.parquet"))
    if not paths:
        raise ArtifactError(f"{PREDICTIONS}: no predictions; run `dvc repro evaluate` first")
    columns = list(summary.COLUMNS)
    return [{**row, "method": path.stem} for path in paths for row in tables.scan(path, schema.PREDICTIONS, columns)]


def _curves() -> result_figures.Curves:
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


def _surface() -> list[dict[str, Any]]:
    """The cells of every method; none where the benchmark has no such questions."""
    return [cell for path in sorted(SURFACE.glob("*.json")) for cell in files.read_json(path, "surface")["rows"]]


def _versions() -> dict[str, dict[str, str]]:
    """Of the libraries, as each training noted them."""
    return {path.parent.name: files.read_json(path, "train") for path in sorted(CURVES.glob("*/versions.json"))}


def _inputs() -> dict[str, str]:
    """Path -> md5 of the files behind the page, as DVC counts it; those of folders stand in dvc.lock alone."""
    given = [
        EXAMPLES,
        DOCUMENTS,
        MASKED,
        *sorted(PREDICTIONS.glob("*.parquet")),
        *(path for path, _ in SOURCES.values()),
    ]
    digests = {}
    for path in given:
        with path.open("rb") as file:
            digests[path.as_posix()] = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return digests


def _readings(chosen: list[str], predictions: list[tables.Row]) -> list[readings.Reading]:
    """The examples and documents to read; the files are streamed, nothing else stays."""
    wanted = set(chosen)
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
    kept_of = {
        row["example_id"]: row["kept_chunk_ids"]
        for row in tables.scan(MASKED, tables.MASKED_VIEWS, ["example_id", "kept_chunk_ids"])
        if row["example_id"] in wanted
    }
    answered: dict[str, list[Any]] = {example_id: [] for example_id in chosen}
    for row in sorted(predictions, key=lambda row: (summary.method_order(row["method"]), row["input"])):
        if row["example_id"] in wanted:
            answered[row["example_id"]].append(row)
    folded = readings.folded_characters(sum(len(example["document_ids"]) for example in example_of.values()))
    return [
        readings.reading(example_of[key], document_of, kept_of.get(key, ()), answered[key], folded) for key in chosen
    ]


if __name__ == "__main__":
    run(main)
