"""Stage report: writes the summary, the table and the page from what the other stages measured. Imports no torch.

`--show` only prints: the table of the last report, the path of its page, and the two things that the page leaves out
because they do not follow from its inputs, the git commit and the times of the stages.
"""

import csv
import hashlib
import sys
from pathlib import Path

import polars as pl

from pipeline.common import files, tables
from pipeline.evaluation import schema
from pipeline.report import ablation_table, answer_browser, charts, focus_map, page, summary, text
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError
from pipeline.runtime.main import commit, latest_seconds, run

CURVES = Path("reports/train")
SOURCES = {  # name -> file, and the stage that writes it
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
NUM_EXAMPLES = 40
"""Number of examples to read on the page."""


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
    chosen = answer_browser.choose(predictions, num=NUM_EXAMPLES, longest=found.lengths[-1].low)
    surface = [files.read_json(path, "surface")["rows"] for path in sorted(schema.SURFACE.glob("*.json"))]
    versions = {path.parent.name: files.read_json(path, "train") for path in sorted(CURVES.glob("*/versions.json"))}
    shown = page.PageData(
        title=settings.report.title,
        summary=found,
        curves=_curves(),
        examples=_examples(chosen, predictions),
        sources=sources,
        settings=settings.model_dump(),
        surface=[cell for cells in surface for cell in cells],  # none where the benchmark has no such questions
        versions=versions,
        inputs=_digests(),
        laptop=ablation_table.read(ablation_table.LAPTOP),
        ablations=ablation_table.read(),
        map_of_focus=focus_map.read(),
    )
    files.write_text(PAGE, page.render(shown))
    files.write_text(TABLE, text.table(found))
    files.write_text(BY_LENGTH, summary.scores_csv(found.longest, found.by_length, "num_documents"))
    files.write_text(BY_POSITION, summary.scores_csv(found.longest, found.by_position, "gold_position"))
    files.write_json(SUMMARY, summary.record(found, {**sources, "settings": settings.model_dump()}))
    print(
        f"report: {len(predictions):,} answers of {len(found.longest)} combinations of method and input, "
        f"{len(chosen)} examples to read; {PAGE}"
    )


def show() -> None:
    """Print the table, the commit, the times of the stages on this machine, and the path of the page.

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


def _predictions() -> pl.DataFrame:
    """Read the predictions of every method; the name of a file is that of its method."""
    paths = sorted(schema.PREDICTIONS.path.glob("*.parquet"))
    if not paths:
        raise ArtifactError(f"{schema.PREDICTIONS}: no predictions; run `dvc repro evaluate` first")
    columns = list(summary.COLUMNS)
    found = [schema.PREDICTIONS.at(path) for path in paths]
    tables.require_together(tables.DOCUMENTS, tables.EXAMPLES, tables.MASKED_VIEWS, *found)
    frames = [tables.frame(table, columns).with_columns(method=pl.lit(table.path.stem)) for table in found]
    return pl.concat(frames)


def _curves() -> charts.Curves:
    """Read every training curve from its TSV file; the name of a folder is that of its method."""
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


def _examples(chosen: list[str], predictions: pl.DataFrame) -> list[tables.Row]:
    """Assemble the chosen examples; files are streamed, because the documents need not fit into memory."""
    wanted = set(chosen)
    example_of = _rows_of(tables.EXAMPLES, "example", wanted, schema.PREDICTIONS)
    shown = {document_id for example in example_of.values() for document_id in example["document_ids"]}
    document_of = _rows_of(tables.DOCUMENTS, "document", shown, tables.EXAMPLES)
    masked = tables.scan(tables.MASKED_VIEWS, ["example_id", "kept_chunk_ids"])
    kept_of = {row["example_id"]: row["kept_chunk_ids"] for row in masked if row["example_id"] in wanted}
    tables.require_ids(tables.MASKED_VIEWS, kept_of, wanted, schema.PREDICTIONS)
    answers = sorted(
        predictions.filter(pl.col("example_id").is_in(chosen)).to_dicts(),
        key=lambda row: summary.row_order(row["method"], row["input"]),
    )
    folded = answer_browser.folded_characters(sum(len(example["document_ids"]) for example in example_of.values()))
    return [
        answer_browser.assemble(
            example_of[example_id],
            document_of,
            kept_of[example_id],
            [row for row in answers if row["example_id"] == example_id],
            folded,
        )
        for example_id in chosen
    ]


def _rows_of(table: tables.Table, kind: str, wanted: set[str], source: tables.Table) -> dict[str, tables.Row]:
    """Read the rows of these ids, which `source` names."""
    rows = ((row[f"{kind}_id"], row) for row in tables.scan(table))
    found = {row_id: row for row_id, row in rows if row_id in wanted}
    tables.require_ids(table, found, wanted, source)
    return found


def _digests() -> dict[str, str]:
    """Path -> md5 of the files behind the page, as in dvc.lock; the digests of folders are in dvc.lock alone."""
    paths = [table.path for table in (tables.EXAMPLES, tables.DOCUMENTS, tables.MASKED_VIEWS)]
    paths += [*schema.PREDICTIONS.path.glob("*.parquet"), *(path for path, _ in SOURCES.values())]
    digests = {}
    for path in paths:
        with path.open("rb") as file:
            digests[path.as_posix()] = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    return digests


if __name__ == "__main__":
    run(main)
