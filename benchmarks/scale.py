"""CPU seconds, peak memory and bytes per example of the stages that read every document and question.

    python benchmarks/scale.py --questions 10000 100000
    python benchmarks/scale.py --documents 10000 100000 --questions 4000

Each stage is a process of its own, in a folder of its own, with retriever bm25, the shipped base and 12 documents a
context. Without --documents, the data are biographies, of as many people as the questions need; with it, own documents
of --words words, which the questions name at random. Bytes per example are the growth of the peak from the first size
to the last, over that of the questions, or of the documents where several numbers of them are given. The last line is a
digest of each table's rows, so that two versions of the code can be compared (--code FOLDER).
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("prepare", "chunk", "score", "tokenize", "mask")
TABLES = {name: f"data/{name}.parquet" for name in ("documents", "examples", "chunks", "scores")}
TABLES |= {f"{name} views": f"data/views/{name}.parquet" for name in ("full", "masked")}
CONTEXT = 12
WORDS = [
    f"{first}{middle}{last}"
    for first in "bdfgklmnprstvz"
    for middle in "aeiou"
    for last in ("n", "r", "st", "lo", "mi")
]


class Cost(NamedTuple):
    """What one process took."""

    seconds: float
    """CPU, of user and system."""
    peak_mib: float


def project(folder: Path, questions: int, documents: int | None, words: int) -> None:
    """Write params.yaml, what stage base leaves, and, of own data, the two files."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "models/tiny-base", folder / "models/tiny-base")
    yaml = YAML()
    params: Any = yaml.load(ROOT / "params.yaml")
    params["use"]["retriever"] = "bm25"
    sizes = {f"{split}_documents": [CONTEXT] for split in ("train", "dev", "test")}
    test = questions // 10
    counts = {"train_questions": questions - 2 * test, "unlabelled_questions": 0, "surface_questions": 0}
    params["data"] = {**sizes, **counts, "dev_questions": test, "test_questions": test}
    if documents is not None:
        params["use"]["data"], params["data"] = "jsonl", {}
        write_own(folder / "input/own", questions, documents, words)
    params["model"]["max_tokens"] = 8192  # own texts have more tokens in the words of the small tokenizer
    yaml.dump(params, folder / "params.yaml")


def write_own(folder: Path, questions: int, documents: int, words: int) -> None:
    rng = random.Random(1)
    folder.mkdir(parents=True)
    with (folder / "documents.jsonl").open("w") as file:
        for number in range(documents):
            text = " ".join(rng.choices(WORDS, k=words - 4))
            row = {"id": f"d{number}", "title": f"Title {number}", "text": f"{text}. The code is c{number}."}
            file.write(json.dumps(row) + "\n")
    with (folder / "questions.jsonl").open("w") as file:
        for number in range(questions):
            context = rng.sample(range(documents), CONTEXT)
            row = {
                "id": f"q{number}", "split": rng.choice(("train", "train", "train", "dev", "test")),
                "question": f"What is the code of title {context[0]} {rng.choice(WORDS)}?",
                "answers": [f"c{context[0]}"], "documents": [f"d{name}" for name in context],
                "gold": [f"d{context[0]}"],
            }  # fmt: skip
            file.write(json.dumps(row) + "\n")


def cost(stage: str, folder: Path, code: Path) -> Cost:
    """Run a stage. Raises SystemExit when it fails."""
    if (child := os.fork()) == 0:
        os.chdir(folder)
        with open("stages.log", "a") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        os.execve(
            sys.executable,
            [sys.executable, "-m", f"pipeline.stages.{stage}"],
            os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "FOCUS_CACHE": str(folder / "cache")},
        )
    _, status, usage = os.wait4(child, 0)
    if status:
        sys.exit(f"stage {stage} failed:\n{(folder / 'stages.log').read_text()[-2000:]}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def rows_digest(path: Path) -> str:
    """Digest the rows of a table, whatever version of the code has written it."""
    total = hashlib.sha256()
    for batch in pq.ParquetFile(path).iter_batches(batch_size=4096):
        total.update(repr(batch.to_pylist()).encode())
    return total.hexdigest()[:12]


def main(arguments: list[str] | None = None) -> dict[str, list[Cost]]:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--questions", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--documents", type=int, nargs="+", help="own documents; without it, biographies")
    parser.add_argument("--words", type=int, default=80, help="of an own document")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    parser.add_argument("--code", type=Path, default=ROOT, help="a checkout with other code")
    parser.add_argument("--keep", action="store_true", help="leave the folders in place, and say where")
    asked = parser.parse_args(arguments)
    documents = asked.documents or [None]
    sizes = [(questions, number) for questions in asked.questions for number in documents]
    found: dict[str, list[Cost]] = {}
    digests: list[str] = []
    for questions, number in sizes:
        with contextlib.ExitStack() as stack:
            kept = tempfile.mkdtemp(prefix="scale-") if asked.keep else None
            folder = Path(kept or stack.enter_context(tempfile.TemporaryDirectory(prefix="scale-")))
            project(folder, questions, number, asked.words)
            if {"tokenize", "mask"} & set(asked.stages):
                cost("base", folder, asked.code)
            for stage in asked.stages:
                found.setdefault(stage, []).append(cost(stage, folder, asked.code))
            there = {title: folder / path for title, path in TABLES.items() if (folder / path).is_file()}
            digests.append(", ".join(f"{title} {rows_digest(path)}" for title, path in there.items()))
            if kept:
                print(kept)
    print(*table(sizes, found), *digests, sep="\n")
    return found


def table(sizes: list[tuple[int, int | None]], found: dict[str, list[Cost]]) -> list[str]:
    titles = [f"{questions:,} questions" + (f", {number:,} documents" if number else "") for questions, number in sizes]
    changes = [size for size in zip(*(sizes[0], sizes[-1]), strict=True) if size[0] != size[1]]
    grown = max((last - first for first, last in changes if first is not None and last is not None), default=0)
    ends = ["ms per example", "bytes per example"] if grown else []
    lines = [f"| stage | {' | '.join(f'{title}: s | MiB' for title in titles)} | {' | '.join(ends)} |"]
    lines.append("|---" * (1 + 2 * len(titles) + len(ends)) + "|")
    for stage, costs in found.items():
        cells = [cell for each in costs for cell in (f"{each.seconds:.1f}", f"{each.peak_mib:,.0f}")]
        if grown:
            cells.append(f"{1000 * (costs[-1].seconds - costs[0].seconds) / grown:.2f}")
            cells.append(f"{2**20 * (costs[-1].peak_mib - costs[0].peak_mib) / grown:,.0f}")
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
