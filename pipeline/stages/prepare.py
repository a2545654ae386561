"""Stage prepare: writes documents and examples of any benchmark in one shape.

No torch, unless data.distractors names an encoder.
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from pipeline.common import files, tables
from pipeline.data import load
from pipeline.data.checks import BenchmarkChecks
from pipeline.runtime import config
from pipeline.runtime.errors import counted
from pipeline.runtime.main import run

SUMMARY = Path("reports/prepare.json")


def main() -> None:
    data = config.load("prepare").data
    source = load.find(data)
    benchmark, rejects = source.benchmark, source.rejects
    checks = BenchmarkChecks()
    with tables.writer(tables.EXAMPLES) as examples:
        # Both files are replaced at the very end: a bad question leaves the earlier documents as they are.
        with tables.writer(tables.DOCUMENTS) as documents:
            for document in tqdm(benchmark.documents, desc="documents", unit=" documents", disable=None):
                checks.add_document(document)
                documents.write(tables.row_of(document))
            for example in tqdm(benchmark.examples, desc="examples", unit=" examples", disable=None):
                examples.write(tables.row_of(checks.add_example(example)))
            rejects.check()
            left_out = dict(+source.left_out)  # without zeros
            told = ", ".join(_told(count, reason) for reason, count in left_out.items())
            summary = checks.summary(told)
        examples.made_from(tables.DOCUMENTS)
    origin = {"benchmark": data.kind, "files": source.files, "left_out": left_out, "rejects": rejects.summary()}
    files.write_json(SUMMARY, {**summary, **origin})
    print(_summary_line(summary, rejects.num_bad, told, source.unread))


def _told(count: int, reason: str) -> str:
    """Write a count of Source.left_out, whose reasons begin with a noun in the plural."""
    noun, _, why = reason.partition(" ")
    return f"{counted(count, noun.removesuffix('s'))} {why}"


def _summary_line(summary: dict[str, Any], num_rejects: int, left_out: str, unread: list[str]) -> str:
    documents, leaks = summary["documents"], summary["leaks"]
    num_examples = {split: counts["num_examples"] for split, counts in summary["splits"].items()}
    by_split = ", ".join(f"{split} {number:,}" for split, number in num_examples.items())
    words = documents["words"]
    parts = [
        f"{counted(documents['num_documents'], 'document')} ({words['mean']:,.0f} words on average, {words['max']:,} "
        "at most)",
        f"{counted(sum(num_examples.values()), 'example')} ({by_split})",
    ]
    if left_out:
        parts.append(f"left out: {left_out}")
    if num_rejects:
        parts.append(f"{counted(num_rejects, 'bad line')} left out (the first ones stand in {SUMMARY})")
    if num_examples["train"] == 0:
        parts.append("nothing to train on: `dvc repro evaluate@base` is as far as it goes")
    if num_examples["test"] == 0:
        other = ", or set eval.split: dev" if num_examples["dev"] else ""
        parts.append(f"WARNING: no test questions, so nothing can be evaluated; give some the split test{other}")
    if documents["num_copies"]:
        parts.append(
            f"{counted(documents['num_copies'], 'document')} with the words of another one, gold where it is; give "
            "each text one id and title"
        )
    with_answers = [counts for split, counts in summary["splits"].items() if split != "unlabelled"]
    num_known, num_asked = (sum(counts[key] for counts in with_answers) for key in ("num_gold_known", "num_examples"))
    if num_known < num_asked:
        parts.append(f"the gold document is known in {num_known:,} of {counted(num_asked, 'example')} with answers")
    if unread:
        parts.append(
            f"WARNING: not read: {', '.join(unread)}; beside questions.jsonl no other file of questions is read, and "
            "without it those whose names have a split (train.jsonl): rename or move the files"
        )
    if any(leaks.values()):
        parts.append(
            f"WARNING: {counted(leaks['num_documents'], 'document')} and {counted(leaks['num_questions'], 'question')} "
            "of train stand in dev or test too, where a trained model may answer from memory; give dev and test other "
            "ones, unless you mean to ask about the texts of training"
        )
    return "prepare: " + "; ".join(parts)


if __name__ == "__main__":
    run(main)
