"""Stage prepare: whatever the benchmark, documents and examples in one shape. No torch."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline import config, files, records, tables
from pipeline.core.benchmarks import bios, jsonl, nq
from pipeline.core.benchmarks.census import Census
from pipeline.core.documents import Benchmark
from pipeline.errors import run
from pipeline.records import Lines, Rejects
from pipeline.settings import BiosData, Data, JsonlData, NqData, PrepareStage

DOCUMENTS, EXAMPLES = Path("data/documents.parquet"), Path("data/examples.parquet")
SUMMARY = Path("reports/prepare.json")


def main() -> None:
    data = config.load(PrepareStage).data
    benchmark, rejects = _benchmark(data)
    census = Census()
    # Both files are replaced at the very end: a bad question leaves the earlier documents as they are.
    with tables.Writer(DOCUMENTS, tables.DOCUMENTS) as documents, tables.Writer(EXAMPLES, tables.EXAMPLES) as examples:
        for document in tqdm(benchmark.documents, desc="documents", unit=" documents", disable=None):
            census.add_document(document)
            documents.write(asdict(document))
        for example in tqdm(benchmark.examples, desc="examples", unit=" examples", disable=None):
            census.add_example(example)
            examples.write(asdict(example))
        rejects.check()
        summary = census.summary()
    files.write_json(SUMMARY, {"benchmark": data.kind, **summary, "rejects": rejects.summary()})
    print(_summary_line(census, summary, rejects.num_bad))


def _benchmark(data: Data) -> tuple[Benchmark, Rejects]:
    """The benchmark that the settings choose, and where the bad lines of its files are counted."""
    match data:
        case BiosData():
            made = bios.generate(
                seed=data.seed,
                num_questions={"train": data.train_questions, "dev": data.dev_questions, "test": data.test_questions},
                num_documents={"train": data.train_documents, "dev": data.dev_documents, "test": data.test_documents},
                name_sharing_rate=data.name_sharing_rate,
            )
            return made, Rejects()
        case JsonlData():
            hint = "; mend the line, or set `data: {on_error: skip}` in params.yaml"
            rejects = Rejects(data.on_error == "skip", data.max_bad_fraction, hint)
            documents, questions = (
                Lines([records.find(Path(data.source), name)], rejects) for name in ("documents", "questions")
            )
            return jsonl.benchmark(documents, questions, rejects.reject), rejects
        case NqData():
            rejects = Rejects()
            read = nq.benchmark(
                Lines(records.find_all(Path(data.source)), rejects),
                rejects.reject,
                seed=data.seed,
                num_documents=data.num_documents,
                gold_position=data.gold_position,
                max_questions=data.max_questions,
            )
            return read, rejects


def _summary_line(census: Census, summary: dict[str, Any], num_rejects: int) -> str:
    words = summary["documents"]["words"]
    by_split = ", ".join(f"{split} {counts['num_examples']:,}" for split, counts in summary["splits"].items())
    parts = [
        f"{census.num_documents:,} documents ({words['mean']:,.0f} words on average, {words['max']:,} at most)",
        f"{census.num_examples:,} examples ({by_split})",
    ]
    if num_rejects:
        parts.append(f"{num_rejects:,} bad lines left out (the first ones stand in {SUMMARY})")
    if census.num_leaked_documents or census.num_leaked_questions:
        parts.append(
            f"WARNING: {census.num_leaked_documents:,} documents and {census.num_leaked_questions:,} questions "
            "of train stand in dev or test too"
        )
    return "prepare: " + "; ".join(parts)


if __name__ == "__main__":
    run(main)
