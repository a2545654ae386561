"""From the data settings to a benchmark: its files found or downloaded, opened by their form, given to its reader."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.common.tables import Benchmark
from pipeline.data import download, jsonl
from pipeline.data.benchmarks import bios, hotpot, longbench, nq, own_jsonl, qasper, quality, squality
from pipeline.data.jsonl import JsonEntries, JsonLines, Rejects
from pipeline.runtime.settings import (
    BiosData,
    Data,
    DataFile,
    HotpotData,
    JsonlData,
    LongbenchData,
    NqData,
    OfficialData,
    QasperData,
    QualityData,
    SqualityData,
)


@dataclass(frozen=True)
class Source:
    """A benchmark, and what is to be told about where it came from."""

    benchmark: Benchmark
    rejects: Rejects = field(default_factory=Rejects)
    files: list[dict[str, Any]] = field(default_factory=list)
    """Of official files: which part they are (a split, passages), name, digests."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Questions that the reader leaves out by its own rules, by reason; full when all examples have been taken."""


def find(data: Data) -> Source:
    """The benchmark that the settings choose.

    Raises:
        ArtifactError, ConfigError, DataError, ResourceError: a file is not there, cannot be fetched, is not the pinned
            one or cannot be read.
    """
    match data:
        case BiosData():
            return Source(
                bios.generate(
                    seed=data.seed,
                    num_questions={
                        "train": data.train_questions,
                        "unlabelled": data.unlabelled_questions,
                        "dev": data.dev_questions,
                        "test": data.test_questions,
                    },
                    num_documents={
                        "train": data.train_documents,
                        "unlabelled": data.train_documents,
                        "dev": data.dev_documents,
                        "test": data.test_documents,
                    },
                    name_sharing_rate=data.name_sharing_rate,
                    gold_position=data.gold_position,
                    facts_per_person=data.facts_per_person,
                    wording=data.wording,
                    surface=bios.Surface(
                        data.surface_questions, data.surface_documents, data.surface_name_sharing_rates
                    ),
                )
            )
        case JsonlData():
            hint = "; mend the line, or set `data: {on_error: skip}` in params.yaml"
            rejects = Rejects(data.on_error == "skip", data.max_bad_fraction, hint)
            documents, questions = (
                JsonLines([jsonl.find(Path(data.source), name)], rejects) for name in ("documents", "questions")
            )
            return Source(own_jsonl.benchmark(documents, questions, rejects.reject), rejects)
        case _:
            return _official(data)


def _official(data: OfficialData) -> Source:
    rejects, files, left_out = Rejects(), _Files(data.source), Counter[str]()
    form = JsonEntries if isinstance(data, QasperData | HotpotData) else JsonLines
    of_split = {
        split: form(files.locate(split, getattr(data.files, split)), rejects) for split in ("train", "dev", "test")
    }
    shares: dict[str, Any] = {
        "dev_fraction": data.dev_fraction,
        "test_fraction": data.test_fraction,
        "seed": data.seed,
        "max_questions": data.max_questions,
    }
    match data:
        case QualityData():
            found = quality.benchmark(of_split, rejects.reject, **shares)
        case QasperData():
            found = qasper.benchmark(of_split, rejects.reject, left_out=left_out, **shares)
        case HotpotData():
            found = hotpot.benchmark(of_split, rejects.reject, **shares)
        case LongbenchData():
            found = longbench.benchmark(of_split, rejects.reject, **shares)
        case SqualityData():
            found = squality.benchmark(of_split, rejects.reject, **shares)
        case NqData():
            found = nq.benchmark(
                of_split,
                _Passages(files.locate("passages", data.passages), rejects),
                rejects.reject,
                left_out=left_out,
                num_documents=data.num_documents,
                gold_position=data.gold_position,
                **shares,
            )
        case _:
            raise AssertionError(f"a benchmark without a reader: {data!r}")
    return Source(found, rejects, files.located, left_out)


class _Files:
    """Finds or fetches files, and remembers what their bytes were."""

    def __init__(self, source: str | None) -> None:
        self._source = None if source is None else Path(source)
        self.located: list[dict[str, Any]] = []

    def locate(self, part: str, files: Iterable[DataFile]) -> list[Path]:
        paths = []
        for file in files:
            found = download.locate(file, self._source)
            self.located.append({"part": part, "name": file.name, "sha256": found.sha256, "git_blob": found.git_blob})
            paths.append(found.path)
        return paths


class _Passages:
    """Of JSONL files, and of files that are one JSON list; each iteration reads them anew."""

    def __init__(self, paths: list[Path], rejects: Rejects) -> None:
        self._parts = [(JsonLines if ".jsonl" in path.name else JsonEntries)([path], rejects) for path in paths]

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for part in self._parts:
            yield from part
