"""The table of benchmarks: one line for each kind of settings."""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import pytest

from pipeline.common.tables import Document
from pipeline.data import load, splits
from pipeline.data.jsonl import OfficialRecord, Text
from pipeline.data.splits import Group, OfficialFiles
from pipeline.runtime.errors import ConfigError, DataError
from pipeline.runtime.settings import DataFile, DataSettings, OfficialData, SplitFiles


def test_every_kind_of_settings_is_a_line_of_the_table():
    union, _ = get_args(DataSettings)
    kinds = {kind for data in get_args(union) for kind in get_args(data.model_fields["kind"].annotation)}
    assert kinds == set(load.BENCHMARKS)


class ToyData(OfficialData):
    kind: Literal["toy"]


class ToyRecord(OfficialRecord):
    id: Text
    story: Text
    question: Text
    answer: Text


def read(files: OfficialFiles) -> Iterator[Group]:
    for split, place, record in files.parse(ToyRecord):
        document = Document(f"toy-{record.id}", "", record.story)
        asked = splits.example("toy", split, record.id, record.question, [record.answer], [document.document_id])
        yield Group(split, place, record.id, [document], [asked])


@pytest.mark.parametrize("form", ["lines", "list"])
def test_a_new_benchmark_is_a_reader_and_a_line_of_the_table(tmp_path, monkeypatch, form):
    records = [{"id": str(n), "story": "The sea is wide.", "question": "Is it?", "answer": "wide"} for n in range(10)]
    text = json.dumps(records) if form == "list" else "\n".join(map(json.dumps, records))
    (tmp_path / "train").write_text(text)
    files = SplitFiles(train=[DataFile(name="train")], dev=[], test=[])
    settings = {"seed": 1, "dev_fraction": 0.2, "test_fraction": 0.1, "max_questions": None}
    data = ToyData(kind="toy", source=str(tmp_path), files=files, **settings)
    monkeypatch.setitem(load.BENCHMARKS, "toy", partial(load.official, read))
    source = load.find(data)
    assert len(list(source.benchmark.documents)) == 10
    found = [example.split for example in source.benchmark.examples]
    assert (found.count("train"), found.count("dev"), found.count("test")) == (7, 2, 1)
    assert [file["part"] for file in source.files] == ["train"]


def own_files(folder, *names):
    for name in names:
        (folder / name).touch()
    return {part: [path.name for path in paths] for part, paths in load.own_files(folder).items()}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "json", "json.gz", "parquet", "ndjson", "JSONL"])
def test_own_files_have_any_ending_and_questions_goes_before_files_named_by_split(tmp_path, ending):
    names = f"documents.{ending}", f"questions.{ending}", "train.jsonl", "notes.txt"
    assert own_files(tmp_path, *names) == {"documents": [names[0]], "": [names[1]]}


def test_a_file_name_tells_the_split_of_its_rows(tmp_path):
    names = ["train-v2.0.json", "biencoder-nq-dev.json.gz", "validation-00000-of-00001.jsonl", "my_test_1.jsonl"]
    assert own_files(tmp_path, *names, "unlabelled.jsonl", "trainers.jsonl", "corpus.jsonl", "test.txt") == {
        "documents": [],
        "train": ["train-v2.0.json"],
        "dev": ["biencoder-nq-dev.json.gz", "validation-00000-of-00001.jsonl"],
        "test": ["my_test_1.jsonl"],
        "unlabelled": ["unlabelled.jsonl"],
    }


def test_a_folder_without_questions_and_two_files_that_differ_in_their_endings_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"/questions.jsonl: no such file, nor one named by a split.*; put it there"):
        own_files(tmp_path, "documents.jsonl", "corpus.jsonl")
    copy = (
        tmp_path.with_name(f"{tmp_path.name}-copy") / ".dvc/tmp/exps/standalone/x"
    )  # where `dvc exp run --temp` works
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(DataError, match=r"put it there \(.*: add --copy-paths input/own to `dvc exp run`\), or name"):
        load.own_files(Path("input/own"))
    (tmp_path / "questions.json").mkdir()
    message = (
        r"named by a split, .* not \(there are corpus.jsonl, documents.jsonl, questions.csv, questions.json\); put"
        r".*; questions.csv is not read: save its rows as JSON Lines, JSON or Parquet$"
    )
    with pytest.raises(DataError, match=message):
        own_files(tmp_path, "questions.csv")
    (tmp_path / "questions.json").rmdir()
    with pytest.raises(
        ConfigError, match=r"data.source is .*/corpus.jsonl, which is a file; it must be a folder: name"
    ):
        own_files(tmp_path / "corpus.jsonl")
    with pytest.raises(DataError, match=r"train-test.json: its name has the splits test and train; name it by one"):
        own_files(tmp_path, "train-test.json")
    with pytest.raises(DataError, match=r"questions.jsonl.gz and questions.json both stand there; keep one of them"):
        own_files(tmp_path, "questions.jsonl.gz", "questions.json")
