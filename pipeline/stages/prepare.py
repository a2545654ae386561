"""Stage prepare: writes documents and examples of any benchmark in one shape. No torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.data import load
from pipeline.data.checks import BenchmarkChecks
from pipeline.runtime import config
from pipeline.runtime.main import run

SUMMARY = Path("reports/prepare.json")


def main() -> None:
    data = config.load("prepare").data
    source = load.find(data)
    benchmark, rejects = source.benchmark, source.rejects
    checks = BenchmarkChecks()
    # Both files are replaced at the very end: a bad question leaves the earlier documents as they are.
    with tables.Writer(tables.DOCUMENTS) as documents, tables.Writer(tables.EXAMPLES) as examples:
        for document in tqdm(benchmark.documents, desc="documents", unit=" documents", disable=None):
            checks.add_document(document)
            documents.write(asdict(document))
        for example in tqdm(benchmark.examples, desc="examples", unit=" examples", disable=None):
            checks.add_example(example)
            examples.write(asdict(example))
        rejects.check()
        summary = checks.summary()
    left_out = dict(+source.left_out)  # without zeros
    origin = {"benchmark": data.kind, "files": source.files, "left_out": left_out, "rejects": rejects.summary()}
    files.write_json(SUMMARY, {**summary, **origin})
    print(_summary_line(summary, rejects.num_bad, left_out))


def _summary_line(summary: dict[str, Any], num_rejects: int, left_out: dict[str, int]) -> str:
    documents, leaks = summary["documents"], summary["leaks"]
    num_examples = {split: counts["num_examples"] for split, counts in summary["splits"].items()}
    by_split = ", ".join(f"{split} {number:,}" for split, number in num_examples.items())
    words = documents["words"]
    parts = [
        f"{documents['num_documents']:,} documents ({words['mean']:,.0f} words on average, {words['max']:,} at most)",
        f"{sum(num_examples.values()):,} examples ({by_split})",
    ]
    if left_out:
        parts.append("left out: " + ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()))
    if num_rejects:
        parts.append(f"{num_rejects:,} bad lines left out (the first ones stand in {SUMMARY})")
    if num_examples["train"] == 0:
        parts.append("nothing to train on: `dvc repro evaluate@base` is as far as it goes")
    if any(leaks.values()):
        parts.append(
            f"WARNING: {leaks['num_documents']:,} documents and {leaks['num_questions']:,} questions of train stand in "
            "dev or test too"
        )
    return "prepare: " + "; ".join(parts)


if __name__ == "__main__":
    run(main)
