"""The table of benchmarks: one line for each kind of settings."""

import json
from collections.abc import Iterator
from functools import partial
from typing import Literal, get_args

import pytest

from pipeline.common.tables import Document
from pipeline.data import load, splits
from pipeline.data.jsonl import JsonEntries, JsonLines, OfficialRecord, Text
from pipeline.data.splits import Group, OfficialFiles
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


@pytest.mark.parametrize("form", [JsonLines, JsonEntries])
def test_a_new_benchmark_is_a_reader_and_a_line_of_the_table(tmp_path, monkeypatch, form):
    records = [{"id": str(n), "story": "The sea is wide.", "question": "Is it?", "answer": "wide"} for n in range(10)]
    text = json.dumps(records) if form is JsonEntries else "\n".join(map(json.dumps, records))
    (tmp_path / "train").write_text(text)
    files = SplitFiles(train=[DataFile(name="train")], dev=[], test=[])
    settings = {"seed": 1, "dev_fraction": 0.2, "test_fraction": 0.1, "max_questions": None}
    data = ToyData(kind="toy", source=str(tmp_path), files=files, **settings)
    monkeypatch.setitem(load.BENCHMARKS, "toy", partial(load.official, read, form))
    source = load.find(data)
    assert len(list(source.benchmark.documents)) == 10
    found = [example.split for example in source.benchmark.examples]
    assert (found.count("train"), found.count("dev"), found.count("test")) == (7, 2, 1)
    assert [file["part"] for file in source.files] == ["train"]
