"""From the data settings to a benchmark: its files found or downloaded, and given to its reader."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.common.tables import Benchmark, Document
from pipeline.data import download, splits
from pipeline.data.benchmarks import bios, hotpot, longbench, nq, own_jsonl, passages, qasper, quality, squality
from pipeline.data.benchmarks.bios import SplitQuestions
from pipeline.data.jsonl import JsonRows, Rejects
from pipeline.data.splits import OfficialFiles
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError, DataError
from pipeline.runtime.settings import (
    BiosData,
    DataFile,
    DataSettings,
    JsonlData,
    NqData,
    OfficialData,
    PassagesData,
)


@dataclass(frozen=True)
class Source:
    """A benchmark, and what the report tells about its origin."""

    benchmark: Benchmark
    rejects: Rejects = field(default_factory=Rejects)
    files: list[dict[str, Any]] = field(default_factory=list)
    """Official files: the part they belong to (a split, passages), name, digests."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Questions that the reader leaves out by its own rules, by reason; complete when all examples have been taken."""
    unread: list[str] = field(default_factory=list)
    """Names of data files that stand in the user's folder and are not read."""


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
    hint = "; mend the row (docs/own-documents.md shows one), or set `data: {on_error: skip}` in params.yaml"
    rejects = Rejects(data.on_error == "skip", data.max_bad_fraction, hint)
    parts = own_files(Path(data.source))
    rows = {part: JsonRows(paths, rejects) for part, paths in parts.items() if paths}
    left_out: Counter[str] = Counter()
    found = own_jsonl.benchmark(rows.pop(_DOCUMENTS, None), rows, rejects.reject, left_out)
    return Source(found, rejects, unread=unread_files(Path(data.source), parts), left_out=left_out)


_DOCUMENTS = "documents"
_READ = re.compile(r"(.+)\.((jsonl?|ndjson)(\.gz)?|parquet)", re.IGNORECASE)
_TABLES = (".csv", ".tsv", ".xls", ".xlsx")
SHOWN_FILES = 6  # of a folder without questions


def own_files(folder: Path) -> dict[str, list[Path]]:
    """Find the files of the user's own data: those of the documents, then those of questions by split.

    Split "" is `questions`, whose rows name their splits; without that file, the name of a file tells the split.

    Raises:
        ConfigError: the folder is a file.
        DataError: there are no questions, two files differ in their endings alone, or a file's name has two splits.
    """
    if folder.is_file():
        raise ConfigError(f"data.source is {folder}, which is a file; it must be a folder: name the one that holds it")
    by_name: dict[str, Path] = {}
    there = sorted(folder.glob("*"))
    for path in filter(Path.is_file, there):
        if match := _READ.fullmatch(path.name):
            if match[1] in by_name:
                raise DataError(f"{path} and {by_name[match[1]].name} both stand there; keep one of them")
            by_name[match[1]] = path
    parts = {_DOCUMENTS: [by_name.pop(_DOCUMENTS)] if _DOCUMENTS in by_name else []}
    if "questions" in by_name:
        return parts | {"": [by_name["questions"]]}
    for name, path in by_name.items():
        words = re.split(r"[\W\d_]+", name.lower())
        named = sorted({own_jsonl.SPLIT_OF[word] for word in words if word in own_jsonl.SPLIT_OF})
        if len(named) > 1:
            raise DataError(f"{path}: its name has the splits {' and '.join(named)}; name it by one of them")
        for split in named:
            parts.setdefault(split, []).append(path)
    if len(parts) == 1:
        state = f" (there are {', '.join(path.name for path in there[:SHOWN_FILES])})" if there else ""
        state = state if folder.exists() else f" ({folder} does not exist)"
        tables = [path.name for path in there if path.suffix.lower() in _TABLES]
        told = f"; {tables[0]} is not read: save its rows as JSON Lines, JSON or Parquet" if tables else ""
        raise DataError(
            f"{folder}/questions.jsonl: no such file, nor one named by a split, as train.jsonl or dev.json, gzipped or "
            f"not{state}; put it there{download.left_behind(folder)}, or name the right place with "
            f"`data: {{source: ...}}` in params.yaml{told}"
        )
    return parts


def unread_files(folder: Path, parts: dict[str, list[Path]]) -> list[str]:
    """Name the files of data in the user's folder that are none of its `parts`, tables in other formats among them."""
    read = {path for paths in parts.values() for path in paths}
    there = (path for path in sorted(folder.glob("*")) if path.is_file() and path not in read)
    return [path.name for path in there if _READ.fullmatch(path.name) or path.suffix.lower() in _TABLES]


def _nq(data: NqData) -> Source:
    reader = partial(nq.benchmark, num_documents=data.num_documents, gold_position=data.gold_position)
    return _from_files(reader, data, {"passages": data.passages})


def _passages(read: passages.ReadPassages, data: PassagesData) -> Source:
    reader = partial(
        passages.benchmark,
        read,
        data.kind,
        num_documents={"train": data.train_documents, "dev": data.dev_documents, "test": data.test_documents},
        share_contexts=data.share_contexts,
        same_article_first=data.kind == "squad",
        rank=partial(_ranked_by, data.distractors),
    )
    return _from_files(reader, data, {})


def _ranked_by(
    bundle: str, documents: Sequence[Document], questions: Sequence[str]
) -> Callable[[Sequence[str]], NDArray[np.float32]]:
    """Build what scores passages for questions. Raises ConfigError: the bundle cannot rank a whole corpus."""
    from pipeline.retrieval import build, retrievers  # the import takes a second, and most benchmarks do without

    settings = config.load_retrievers([bundle], key="data.distractors")[bundle]
    texts = [retrievers.chunk_text(document.title, document.text, with_title=settings.title) for document in documents]
    scorer = build.build(settings, texts, list(dict.fromkeys(questions))).scorer
    if not isinstance(scorer, retrievers.CorpusScorer):
        raise ConfigError(
            f"data.distractors is {bundle!r}, which ranks no corpus; choose an encoder (minilm), bm25 or fusion"
        )
    return scorer.corpus_scores


def official(read: splits.Read, data: OfficialData) -> Source:
    """Read a benchmark that has official files."""
    return _from_files(partial(splits.benchmark, read), data, {})


def _from_files(
    reader: Callable[[OfficialFiles], Benchmark], data: OfficialData, others: dict[str, list[DataFile]]
) -> Source:
    """Locate the files of all splits and the `others`, record what their bytes are, and give them to the reader."""
    rejects, records, lines = Rejects(), [], {}
    for part, files in {**dict(data.files), **others}.items():
        paths = []
        for file in files:
            found = download.locate(file, None if data.source is None else Path(data.source))
            records.append({"part": part, "name": file.name, "sha256": found.sha256, "git_blob": found.git_blob})
            paths.append(found.path)
        lines[part] = JsonRows(paths, rejects)
    shares = (data.dev_fraction, data.test_fraction, data.max_questions)
    found_files = OfficialFiles(lines, rejects.reject, data.seed, *shares)
    return Source(reader(found_files), rejects, records, found_files.left_out)


BENCHMARKS: dict[str, Callable[[Any], Source]] = {
    "bios": _bios,
    "jsonl": _own_jsonl,
    "quality": partial(official, quality.read),
    "squality": partial(official, squality.read),
    "longbench": partial(official, longbench.read),
    "hotpot": partial(official, hotpot.read),
    "qasper": partial(official, qasper.read),
    "nq": _nq,
    "nq-oracle": partial(_passages, passages.read_nq_oracle),
    "squad": partial(_passages, passages.read_squad),
}
"""How to open each benchmark, by the `kind` of its settings. A new benchmark with official files is one line."""
