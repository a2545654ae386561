"""From the data settings to a benchmark: its files found or downloaded, opened by their form, given to its reader."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.common.tables import Benchmark
from pipeline.data import download, jsonl, splits
from pipeline.data.benchmarks import bios, hotpot, longbench, nq, own_jsonl, qasper, quality, squality
from pipeline.data.benchmarks.bios import SplitQuestions
from pipeline.data.jsonl import JsonByName, JsonEntries, JsonLines, Rejects
from pipeline.data.splits import OfficialFiles
from pipeline.runtime.settings import BiosData, DataFile, DataSettings, JsonlData, NqData, OfficialData


@dataclass(frozen=True)
class Source:
    """A benchmark, and what the report tells about its origin."""

    benchmark: Benchmark
    rejects: Rejects = field(default_factory=Rejects)
    files: list[dict[str, Any]] = field(default_factory=list)
    """Official files: the part they belong to (a split, passages), name, digests."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Questions that the reader leaves out by its own rules, by reason; complete when all examples have been taken."""


def find(data: DataSettings) -> Source:
    """Open the benchmark that the settings choose. Raises what `download.locate` and the readers raise."""
    return BENCHMARKS[data.kind](data)


def _bios(data: BiosData) -> Source:
    rates = [data.name_sharing_rate]
    asked = [
        SplitQuestions("train", data.train_questions, data.train_documents, rates),
        SplitQuestions("unlabelled", data.unlabelled_questions, data.train_documents, rates),
        SplitQuestions("dev", data.dev_questions, data.dev_documents, rates),
        SplitQuestions("test", data.test_questions, data.test_documents, rates),
        SplitQuestions("surface", data.surface_questions, data.surface_documents, data.surface_name_sharing_rates),
    ]
    return Source(
        bios.generate(
            data.seed,
            asked,
            gold_position=data.gold_position,
            facts_per_person=data.facts_per_person,
            wording=data.wording,
        )
    )


def _own_jsonl(data: JsonlData) -> Source:
    hint = "; mend the line, or set `data: {on_error: skip}` in params.yaml"
    rejects = Rejects(data.on_error == "skip", data.max_bad_fraction, hint)
    documents, questions = (
        JsonLines([jsonl.find(Path(data.source), name)], rejects) for name in ("documents", "questions")
    )
    return Source(own_jsonl.benchmark(documents, questions, rejects.reject), rejects)


def _nq(data: NqData) -> Source:
    reader = partial(nq.benchmark, num_documents=data.num_documents, gold_position=data.gold_position)
    return _from_files(reader, data, JsonLines, {"passages": data.passages})


def official(read: splits.Read, form: type[JsonLines], data: OfficialData) -> Source:
    """Read a benchmark whose files have one JSON value a line (JsonLines) or one in all (JsonEntries)."""
    return _from_files(partial(splits.benchmark, read), data, form, {})


def _from_files(
    reader: Callable[[OfficialFiles], Benchmark],
    data: OfficialData,
    form: type[JsonLines],
    others: dict[str, list[DataFile]],
) -> Source:
    """Locate the files of all splits and the `others`, record what their bytes are, and give them to the reader."""
    rejects, records, lines = Rejects(), [], {}
    for part, files in {**dict(data.files), **others}.items():
        paths = []
        for file in files:
            found = download.locate(file, None if data.source is None else Path(data.source))
            records.append({"part": part, "name": file.name, "sha256": found.sha256, "git_blob": found.git_blob})
            paths.append(found.path)
        lines[part] = (JsonByName if part in others else form)(paths, rejects)
    shares = (data.dev_fraction, data.test_fraction, data.max_questions)
    found_files = OfficialFiles(lines, rejects.reject, data.seed, *shares)
    return Source(reader(found_files), rejects, records, found_files.left_out)


BENCHMARKS: dict[str, Callable[[Any], Source]] = {
    "bios": _bios,
    "jsonl": _own_jsonl,
    "quality": partial(official, quality.read, JsonLines),
    "squality": partial(official, squality.read, JsonLines),
    "longbench": partial(official, longbench.read, JsonLines),
    "hotpot": partial(official, hotpot.read, JsonEntries),
    "qasper": partial(official, qasper.read, JsonEntries),
    "nq": _nq,
}
"""How to open each benchmark, by the `kind` of its settings. A new benchmark with official files is one line."""
