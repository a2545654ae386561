"""Damaged files at every door where foreign bytes come in: each is taken, or refused with one printable line.

    make fuzz                             some 100,000 inputs; FUZZ=1000 as many at each door, times its share
    FUZZ_ONLY="archives 1234" make fuzz   one input again

A door reads files that somebody else may have written. Its inputs are small whole files with one to four changes: bits,
cut ends, pieces twice or of another file, values that no reader expects. Input `number` of a door is the same on every
machine. Any exception but those of pipeline/runtime/errors.py is a failure, and so is a line that is no line, or a
reader that takes longer than SECONDS.
"""

import contextlib
import gzip
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import tarfile
import time
import unicodedata
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from pipeline.common import base_card, seal, tables
from pipeline.common.tables import Document, Evidence, Example
from pipeline.data import archives, jsonl, load
from pipeline.data.benchmarks import hotpot, longbench, qasper, quality, squality
from pipeline.data.checks import BenchmarkChecks
from pipeline.data.splits import OfficialFiles, benchmark
from pipeline.model import gguf as gguf_base
from pipeline.model import loading
from pipeline.retrieval import checkpoint
from pipeline.runtime import config
from pipeline.runtime.errors import PipelineError
from pipeline.runtime.main import message_of
from pipeline.runtime.settings import JsonlData, ModelSettings
from pipeline.tools import score_predictions
from pipeline.tools.plan import model_shape
from pipeline.views import layout, tokenizer
from tests.conftest import ROOT
from tests.model import tiny, tiny_gguf
from tests.views import letters

SECONDS = 20  # of one input, on a busy machine
LONGEST = 2100  # characters of a message
HIDDEN = ("Cc", "Cs", "Zl", "Zp")  # Unicode's categories of control characters, halves of pairs, ends of lines
TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the order of letters
PER_DOOR = int(os.environ.get("FUZZ", "60"))
ONLY = re.fullmatch(r"(.*) (-?\d+)", os.environ.get("FUZZ_ONLY", ""))


class Seed(NamedTuple):
    """A whole file: the bytes that are changed, and what makes a file of them again (compression, a digest)."""

    name: str
    content: bytes
    wrap: Callable[[bytes], bytes] = bytes


class Door(NamedTuple):
    """What reads the files of a folder, and whole ones."""

    seeds: Callable[[Path], list[Seed]]
    """Called once. The seeds of one name are alternatives; of every other name the first one lies beside."""
    read: Callable[[Path, Seed, random.Random], object]
    """Takes the folder, the file that was changed, and a draw of options."""
    share: float = 1.0
    """Of the usual number of inputs: less where a reader is slow."""


# Changes


VALUES = [
    b"null", b"true", b"-1", b"0", b"1e999", b"-0.0", b"NaN", b"1e-5", b"9" * 30, b"9" * 5000, b"0x10", b'""', b'" "',
    b"[]", b"{}", b"[" * 3000, b'{"a":' * 3000, b"[[1]]", b'{"a": [null]}', b'"\\ud800"', b'"\\u0000"',
    b'"\\u001b[31m"', '"\u202eabc\u200b"'.encode(), b'"\xff\xfe"', b'"a\\nb"', b'"../../etc"', b"2147483648",
    b'"' + b"x" * 5000 + b'"', b"~", b"*a", b"&a [*a]", b"${use.data}", b"!!python/name:os.system", b"? a", b"- a",
    b"'", b'"', b"<mask>",
]  # fmt: skip
PIECES = [b"\0", b"\xef\xbb\xbf", b"\r", b"\n", b"\x1b[2J", b",", b"}", b"]", b"\t", b"\xc3", "\u0301".encode(), b"#"]
_VALUE = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|\b(?:true|false|null)\b')


def changed(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """One to four changes; `other` gives pieces of another file."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice((1, 4, 20, 200)))
        match rng.randrange(10):
            case 0 | 1 if content:
                at = min(at, len(content) - 1)
                content = content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]
            case 2:
                content = content[:at] if rng.random() < 0.5 else content[at:]
            case 3:
                content = content[:at] + content[end:]
            case 4:
                content = content[:end] + content[at:end] * rng.choice((1, 1, 50)) + content[end:]
            case 5:
                start = rng.randrange(len(other) + 1)
                content = content[:at] + other[start : start + rng.choice((4, 40, 400))] + content[end:]
            case 6:
                content = content[:at] + rng.choice(PIECES) + content[at:]
            case 7:
                four = struct.pack("<I", rng.choice((0, 1, 0x7FFFFFFF, 0xFFFFFFFF, len(content))))
                content = content[:at] + four + content[at + 4 :]
            case _ if values := list(_VALUE.finditer(content[:20_000])):
                found, value = rng.choice(values), rng.choice(VALUES)
                if rng.random() < 0.3:
                    value = rng.choice(values)[0]
                content = content[: found.start()] + value + content[found.end() :]
    return content


# Doors


def _json(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, indent=1).encode()


def _lines(*rows: Any) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def _gzipped(content: bytes) -> bytes:
    return gzip.compress(content, 1, mtime=0)


def _take(found: tables.Benchmark) -> None:
    """Take all of a benchmark as stage prepare does, up to the tables."""
    checks = BenchmarkChecks()
    for document in found.documents:
        checks.add_document(document)
        pa.Table.from_pylist([asdict(document)], schema=tables.DOCUMENTS.schema)
    for example in found.examples:
        pa.Table.from_pylist([asdict(checks.add_example(example))], schema=tables.EXAMPLES.schema)
    checks.summary()


SQUAD = {
    "id": "s1", "title": "Harbours", "context": "The harbour was dug in 1612.", "question": "When?",
    "answers": {"text": ["1612"], "answer_start": [23]},
}  # fmt: skip
DPR = {
    "question": "When was it dug?", "answers": ["1612"],
    "positive_ctxs": [{"title": "Harbour", "text": "It was dug in 1612.", "passage_id": 7}],
    "negative_ctxs": [{"title": "Bridge", "text": "It was built in 1889."}], "hard_negative_ctxs": [],
}  # fmt: skip
HOTPOT = {
    "_id": "h1", "question": "Who built it?", "answer": "Ilsa", "type": "bridge", "level": "hard",
    "supporting_facts": [["Bridge", 0]], "context": [["Bridge", ["Ilsa built it. ", "Of iron."]], ["Sea", ["Wet."]]],
}  # fmt: skip


def _own_seeds() -> list[Seed]:
    documents, questions = ((ROOT / f"examples/own/{name}.jsonl").read_bytes() for name in ("documents", "questions"))
    rows = [json.loads(line) for line in questions.splitlines()]
    parquet = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([row | {"split": "test"} for row in (SQUAD, SQUAD | {"id": "s2"})]), parquet)
    return [
        Seed("documents.jsonl", documents),
        Seed("documents.jsonl", documents, _gzipped),
        Seed("documents.jsonl", _json([json.loads(line) for line in documents.splitlines()])),
        Seed("questions.jsonl", questions),
        Seed("questions.jsonl", questions.decode().encode("utf-16"), bytes),
        Seed("questions.jsonl", _json(rows)),
        Seed("questions.jsonl", _lines(SQUAD | {"split": "train"}, DPR | {"split": "test"}, HOTPOT | {"split": "dev"})),
        Seed("questions.jsonl", _json({"data": [{"title": "T", "paragraphs": [
            {"context": SQUAD["context"], "qas": [{"id": "a", "question": "When?", "split": "train",
             "answers": [{"text": "1612", "answer_start": 23}], "is_impossible": False}]}]}]})),
        Seed("questions.jsonl", parquet.getvalue().to_pybytes()),
    ]  # fmt: skip


def _read_own(folder: Path, seed: Seed, rng: random.Random) -> None:
    skip = rng.random() < 0.5
    data = JsonlData(
        kind="jsonl", source=str(folder), on_error="skip" if skip else "fail", max_bad_fraction=0.9 if skip else 0.0
    )
    source = load.find(data)
    _take(source.benchmark)
    source.rejects.check()


QUALITY = {
    "article_id": "1", "set_unique_id": "1_A", "title": "A story", "article": "Once.\n\nThe end.",
    "questions": [{"question": "Who?", "options": ["A", "B", "C", "D"], "gold_label": 2, "difficult": 1,
                   "question_unique_id": "1_A_1", "writer_label": 2}],
}  # fmt: skip
QASPER = {
    "1909.1": {
        "title": "Parsing", "abstract": "We parse.",
        "full_text": [{"section_name": "Intro", "paragraphs": ["We parse trees.", "They are tall."]}],
        "qas": [{"question": "What?", "question_id": "p1", "answers": [
            {"answer": {"unanswerable": False, "extractive_spans": ["trees"], "yes_no": None, "free_form_answer": "",
                        "evidence": ["We parse trees."], "highlighted_evidence": ["We parse trees."]}},
            {"answer": {"unanswerable": False, "extractive_spans": [], "yes_no": True, "free_form_answer": "",
                        "evidence": ["FLOAT SELECTED: Table 1"], "highlighted_evidence": []}}]}],
    }
}  # fmt: skip
SQUALITY = {
    "metadata": {"passage_id": "51", "uid": "1"}, "document": "Once.\n\nThe end.",
    "questions": [{"question_text": "What is the plot?", "question_number": 1,
                   "responses": [{"worker_id": "6", "uid": "x", "response_text": "It ends."}]}],
}  # fmt: skip
LONGBENCH = {
    "_id": "l1", "dataset": "hotpotqa", "input": "Who?", "answers": ["Ilsa"], "length": 9, "all_classes": None,
    "language": "en", "context": "Passage 1:\nBridge\nIlsa built it.\n\nPassage 2:\nSea\nWet.\n",
}  # fmt: skip
NQ = {"question": "who built it", "answers": ["Ilsa"], "ctxs": [
    {"id": "1", "title": "Bridge", "text": "Ilsa built it.", "isgold": True, "hasanswer": True},
    {"id": "2", "title": "Sea", "text": "It is wet.", "isgold": False, "hasanswer": False}]}  # fmt: skip
OFFICIAL: dict[str, tuple[bytes, Any]] = {
    "quality": (_lines(QUALITY), quality.read),
    "qasper": (_json(QASPER), qasper.read),
    "squality": (_lines(SQUALITY), squality.read),
    "hotpot": (_json([HOTPOT]), hotpot.read),
    "longbench": (_lines(LONGBENCH), longbench.read),
    "nq": (_lines(NQ, {"question": "who sank it", "answer": ["a storm"]}), None),
    "jsonl": (_lines(SQUAD, DPR), None),
}
PREDICTED: dict[str, list[bytes]] = {
    "quality": [_lines({"id": "1_A_1", "prediction": "B"}), _json({"1_A_1": 3})],
    "qasper": [_lines({"question_id": "p1", "predicted_answer": "yes", "predicted_evidence": ["We parse trees."]})],
    "squality": [_json([{"id": "51-1", "prediction": "It ends."}])],
    "hotpot": [_json({"answer": {"h1": "Ilsa"}, "sp": {"h1": [["Bridge", 0]]}})],
    "longbench": [_lines({"_note": 1, "id": "l1", "answer": "Ilsa"})],
    "nq": [_lines({"question": "who built it", "model_answer": "Ilsa"})],
    "jsonl": [_lines({"id": "s1", "prediction": "1612"})],
}
LEADERBOARD = b"1_A_1,3\n"


def _official_seeds() -> list[Seed]:
    return [Seed(name, content) for name, (content, _) in OFFICIAL.items()]


def _read_official(folder: Path, seed: Seed, rng: random.Random) -> None:
    name = seed.name
    rows = jsonl.JsonRows([folder / name], rejects := jsonl.Rejects())
    read = OFFICIAL[name][1]
    if read is None:
        score_predictions.read_references(name, rows)
    else:
        _take(benchmark(read, OfficialFiles({"train": rows}, rejects.reject, seed=1, dev_fraction=0.5)))


def _prediction_seeds() -> list[Seed]:
    found = [Seed(f"predictions.{name}", content) for name, each in PREDICTED.items() for content in each]
    return [*_official_seeds(), *found, Seed("quality.csv", LEADERBOARD)]


def _read_predictions(folder: Path, seed: Seed, rng: random.Random) -> None:
    name = seed.name.removeprefix("predictions.").removesuffix(".csv")
    predictions = folder / (seed.name if seed.name.endswith(".csv") else f"predictions.{name}")
    asked = ["--predictions", str(predictions), "--references", str(folder / name), "--benchmark", name]
    with contextlib.redirect_stdout(io.StringIO()):
        score_predictions.main(asked)


MEMBER = "release/dev.json"


def _archive_seeds() -> list[Seed]:
    packed, zipped = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in (MEMBER, "release/README"):
            info = tarfile.TarInfo(name)
            info.size = 9
            tar.addfile(info, io.BytesIO(b"[1, 2, 3]"))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as opened:
        opened.writestr(MEMBER, b"[1, 2, 3]" * 9)
        opened.writestr("release/README", b"")
    inner = packed.getvalue()[:4096]
    return [
        Seed("archive", inner, _gzipped),
        Seed("archive", _gzipped(inner)),
        Seed("archive", zipped.getvalue()),
    ]


def _read_archive(folder: Path, seed: Seed, rng: random.Random) -> None:
    archives.extract_member(folder / "archive", MEMBER, folder / "target")


def _sealed(folder: Path, content: bytes) -> bytes:
    """Put the right digest into a table: somebody else's program has written it."""
    path = folder / "sealed"
    path.write_bytes(content)
    with path.open("rb") as file:
        is_table = seal.place_of(file) is not None
    if is_table:
        seal.put(path)
    return path.read_bytes()


TABLES = (tables.DOCUMENTS, tables.EXAMPLES, tables.SCORES)


def _table_seeds(folder: Path) -> list[Seed]:
    document = Document("d", "Title", "A text of eight words is quite enough.")
    example = Example("e", "q", "jsonl", "train", "Who?", "", ["Ada"], ["d"], ["d"], [Evidence("d", 0, 5)], 0)
    scores = {"example_id": "e", "chunk_ids": ["d#0"], "scores": [0.5], "ranks": [0], "gold": [True]}
    seeds = []
    for table, row in (
        (tables.DOCUMENTS, asdict(document)),
        (tables.EXAMPLES, asdict(example)),
        (tables.SCORES, scores),
    ):
        there = table.at(folder / f"{table.name}.parquet")
        tables.write(there, [row] * 3)
        whole = there.path.read_bytes()
        seeds += [Seed(table.name, whole), Seed(table.name, whole, partial(_sealed, folder))]
    return seeds


def _read_table(folder: Path, seed: Seed, rng: random.Random) -> None:
    found = [table.at(folder / table.name) for table in TABLES]
    tables.require_together(*found)
    for table in found:
        tables.metadata(table)
        list(tables.scan(table))
        list(tables.take(table, None, [0, 2]))
        tables.frame(table)


@cache
def _composed(use: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    return COMPOSE(dict(use), ROOT)


COMPOSE = config._compose


def _read_params(folder: Path, seed: Seed, rng: random.Random) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # The bundles are ours, and Hydra takes a tenth of a second to compose them.
        patch.setattr(config, "_compose", lambda use, root: deepcopy(_composed(tuple(use.items()))))
        (folder / "conf").symlink_to(ROOT / "conf")
        config.load(None, folder)


def _tokenizer_seeds() -> list[Seed]:
    return [Seed("tokenizer.json", letters.tokenizer().to_str().encode())]


def _read_tokenizer(folder: Path, seed: Seed, rng: random.Random) -> None:
    tokenizer.load(folder)
    tokenizer.require_lossless(folder, "the base")


MODEL: dict[str, Any] = {
    "revision": None, "sha256": None, "sliding_window": "own", "max_tokens": 64, "dtype": "float32", "prompt": "plain",
    "chat_template_kwargs": {},
}  # fmt: skip


def _base_seeds(folder: Path) -> list[Seed]:
    network = tiny.network()
    network.save_pretrained(folder)
    save_file({"embedding": torch.ones(2, 3), "norm": torch.ones(3)}, folder / "small.safetensors")
    return [
        Seed("config.json", (folder / "config.json").read_bytes()),
        Seed("model.safetensors", (folder / "small.safetensors").read_bytes()),
    ]


def _read_base(folder: Path, seed: Seed, rng: random.Random) -> None:
    loading.find_base(ModelSettings(source=str(folder), **MODEL))


def _read_config(folder: Path, seed: Seed, rng: random.Random) -> None:
    settings = ModelSettings(source=str(folder), **MODEL)
    model_shape.base(settings)
    loading.skeleton(loading.configuration(folder, settings))


def _card_seeds(folder: Path) -> list[Seed]:
    base_card.write_card(letters.CARD, folder)
    return [Seed(base_card.CARD, (folder / base_card.CARD).read_bytes())]


def _read_card(folder: Path, seed: Seed, rng: random.Random) -> None:
    card = base_card.read_card(folder)
    assert card.eos_id >= 0
    layout.Layout(letters.tokenizer(), card)


def _pickle_seeds(folder: Path) -> list[Seed]:
    tensors = {"embedding": torch.ones(2, 3), "norm": torch.ones(3)}
    torch.save(tensors, folder / "zip")
    torch.save(tensors, folder / "plain", _use_new_zipfile_serialization=False)
    return [Seed("pytorch_model.bin", (folder / name).read_bytes()) for name in ("zip", "plain")]


def _read_pickle(folder: Path, seed: Seed, rng: random.Random) -> None:
    checkpoint._unpickled(folder / "pytorch_model.bin")


def _gguf_seeds(folder: Path) -> list[Seed]:
    tiny_gguf.write(folder / "tiny.gguf", gguf.GGMLQuantizationType.Q8_0)
    return [Seed("tiny.gguf", (folder / "tiny.gguf").read_bytes())]


def _read_gguf(folder: Path, seed: Seed, rng: random.Random) -> None:
    gguf_base.convert(folder / "tiny.gguf", "float32", folder / "base")


DOORS: dict[str, Door] = {
    "own data": Door(lambda folder: _own_seeds(), _read_own, 2.0),
    "official data": Door(lambda folder: _official_seeds(), _read_official, 2.0),
    "predictions": Door(lambda folder: _prediction_seeds(), _read_predictions),
    "archives": Door(lambda folder: _archive_seeds(), _read_archive),
    "tables": Door(_table_seeds, _read_table),
    "settings": Door(lambda folder: [Seed("params.yaml", (ROOT / "params.yaml").read_bytes())], _read_params, 0.2),
    "tokenizer": Door(
        lambda folder: [Seed("tokenizer.json", letters.tokenizer().to_str().encode())], _read_tokenizer, 0.5
    ),
    "weights": Door(_base_seeds, _read_base),
    "model configuration": Door(lambda folder: _base_seeds(folder)[:1], _read_config, 0.05),
    "card of the base": Door(_card_seeds, _read_card),
    "pickled weights": Door(_pickle_seeds, _read_pickle),
    "GGUF": Door(_gguf_seeds, _read_gguf, 0.01),
}


# The check


class TooLong(BaseException):
    """Not an Exception, so that no reader takes it for damage."""


def refusal(door: Door, seeds: list[Seed], folder: Path, number: int) -> str:
    """Give the door input `number`; return its error's message, or nothing if it takes the input.

    The inputs below 0 are the whole files.
    """
    rng = random.Random(number)
    seed = seeds[number] if number < 0 else rng.choice(seeds)
    content = seed.content if number < 0 else changed(rng, seed.content, rng.choice(seeds).content)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for other in {each.name: each for each in reversed(seeds)}.values():
        (folder / other.name).write_bytes(other.wrap(other.content))
    (folder / seed.name).write_bytes(seed.wrap(content))
    try:
        door.read(folder, seed, rng)
    except PipelineError as error:
        return message_of(error)
    return ""


def _too_long(*_: object) -> None:
    raise TooLong(f"longer than {SECONDS} s")


@pytest.mark.parametrize("name", DOORS)
def test_a_damaged_file_is_taken_or_refused_with_one_line(name, tmp_path, capsys):
    door = DOORS[name]
    if ONLY and ONLY[1] != name:
        pytest.skip("another door is asked for")
    (tmp_path / "seeds").mkdir()
    seeds, folder = door.seeds(tmp_path / "seeds"), tmp_path / "input"
    numbers = [int(ONLY[2])] if ONLY else range(-len(seeds), max(3, round(PER_DOOR * door.share)))
    found: Counter[str] = Counter()
    failures: dict[str, str] = {}
    started = time.process_time()
    before = signal.signal(signal.SIGALRM, _too_long)
    try:
        for number in numbers:
            signal.alarm(SECONDS)
            try:
                with warnings.catch_warnings(action="ignore"):
                    line = refusal(door, seeds, folder, number)
                problem = _problem(line) or (f"a whole file is refused: {line}" if line and number < 0 else "")
            except BaseException as error:
                if ONLY or isinstance(error, KeyboardInterrupt):
                    raise
                line, problem = "", f"{type(error).__name__}: {error}"
            found["refused" if line else "taken"] += 1
            if problem:
                failures.setdefault(re.sub(r"\d+", "0", problem)[:80], f"input {number}: {problem[:300]}")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    with capsys.disabled():
        if "FUZZ" in os.environ:
            seconds = time.process_time() - started
            print(f"{name}: {found['taken']:,} inputs taken, {found['refused']:,} refused, {seconds:.0f} CPU seconds")
    assert not failures, "\n".join(failures.values())


def _problem(line: str) -> str:
    """Tell what is wrong with a message; empty: nothing."""
    hidden = [letter for letter in line if unicodedata.category(letter) in HIDDEN or letter in TURNS]
    if len(line) > LONGEST or hidden:
        return f"the message has {len(line):,} characters, of control {hidden[:3]}: {line!r}"
    return ""
