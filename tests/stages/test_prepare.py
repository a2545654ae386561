"""Stage prepare: all benchmarks in one shape; bad input leaves the earlier files as they are."""

import json
import shutil

import pytest
from ruamel.yaml import YAML

from pipeline import files, tables
from pipeline.errors import DataError
from pipeline.stages import prepare
from tests.conftest import ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the settings, the example and the outputs of one run."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def choose(name, **data):
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["use"]["data"] = name
    params["data"] = data
    with open("params.yaml", "w", encoding="utf-8") as file:
        yaml.dump(params, file)


def outputs(project):
    return {path.name: path.read_bytes() for path in [*project.glob("data/*"), *project.glob("reports/*")]}


def test_the_example_of_the_users_format(project, capsys):
    choose("jsonl", source="examples/own")
    prepare.main()
    documents = {row["document_id"]: row for row in tables.scan(prepare.DOCUMENTS, tables.DOCUMENTS)}
    examples = {row["example_id"]: row for row in tables.scan(prepare.EXAMPLES, tables.EXAMPLES)}
    assert [name for name, row in documents.items() if row["whole"]] == ["minutes"]
    assert [examples[name]["split"] for name in examples] == ["train", "train", "dev", "test", "test", "test"]
    [span] = examples["q4"]["evidence"]
    assert documents["harbour"]["text"][span["start"] : span["end"]] == "31 metres high"
    summary = files.read_json(prepare.SUMMARY, "prepare")
    assert summary["rejects"] == {"num_lines": 12, "num_rejects": 0, "first_rejects": []}
    assert summary["splits"]["test"]["num_examples_by_num_documents"] == {"2": 1, "3": 2}
    assert capsys.readouterr().out == (
        "prepare: 6 documents (38 words on average, 61 at most); 6 examples (train 2, dev 1, test 3)\n"
    )


def test_bios_twice_gives_the_same_bytes(project, capsys):
    choose("bios", train_questions=6, dev_questions=3, test_questions=4, test_documents=[2, 4], train_documents=[3])
    prepare.main()
    first = outputs(project)
    assert set(first) == {"documents.parquet", "examples.parquet", "prepare.json"}
    prepare.main()
    assert outputs(project) == first
    summary = files.read_json(prepare.SUMMARY, "prepare")
    assert summary["splits"]["test"] == {
        "num_questions": 4,
        "num_examples": 8,
        "num_examples_by_num_documents": {"2": 4, "4": 4},
    }
    assert summary["leaks"] == {"num_documents": 0, "num_questions": 0}
    assert "17 examples (train 6, dev 3, test 8)" in capsys.readouterr().out


def test_nq_from_a_folder(project, capsys):
    names = ["alpha", "beta", "gamma", "delta"]
    lines = [
        {"question": f"what is {name}", "answers": [name], "ctxs": [{"text": f"It is {name}.", "isgold": True}]}
        for name in names
    ]
    (project / "nq").mkdir()
    (project / "nq/oracle.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    choose("nq", source="nq", num_documents=[2, 4])
    prepare.main()
    assert "4 documents (3 words on average, 3 at most); 8 examples" in capsys.readouterr().out
    assert all(row["whole"] for row in tables.scan(prepare.DOCUMENTS, tables.DOCUMENTS))


def append(path, text):
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def break_last_question(project):
    append(project / "examples/own/questions.jsonl", '{"id": "q7", "question": "Cut o')


def test_a_broken_line_leaves_earlier_files_as_they_are(project):
    choose("jsonl", source="examples/own")
    prepare.main()
    before = outputs(project)
    append(project / "examples/own/documents.jsonl", '{"id": "new", "text": "A new document."}\n')
    break_last_question(project)
    with pytest.raises(DataError, match=r"questions.jsonl, line 7: not valid JSON .*on_error: skip"):
        prepare.main()
    assert outputs(project) == before


def test_bad_lines_can_be_left_out_and_are_counted(project, capsys):
    break_last_question(project)
    choose("jsonl", source="examples/own", on_error="skip", max_bad_fraction=0.1)
    prepare.main()
    assert "1 bad lines left out (the first ones stand in reports/prepare.json)" in capsys.readouterr().out
    [reject] = files.read_json(prepare.SUMMARY, "prepare")["rejects"]["first_rejects"]
    assert reject["place"] == "examples/own/questions.jsonl, line 7"


def test_too_many_bad_lines_leave_earlier_files_as_they_are(project):
    choose("jsonl", source="examples/own")
    prepare.main()
    before = outputs(project)
    break_last_question(project)
    choose("jsonl", source="examples/own", on_error="skip", max_bad_fraction=0.05)
    with pytest.raises(DataError, match=r"1 of 13 lines are bad, data.max_bad_fraction allows 0.05"):
        prepare.main()
    assert outputs(project) == before


def test_a_leak_between_splits_is_said(project, capsys):
    path = project / "examples/own/questions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"split": "dev"', '"split": "train"'), encoding="utf-8")
    line = {"id": "q7", "split": "test", "question": "Who founded the school of navigation?", "answers": ["Aune"]}
    append(path, json.dumps(line | {"documents": ["school"]}) + "\n")
    choose("jsonl", source="examples/own")
    prepare.main()
    assert "WARNING: 1 documents and 1 questions of train stand in dev or test too" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["jsonl", "nq"])
def test_a_missing_source_is_said_with_the_place_to_mend(project, name):
    choose(name, source="nowhere")
    with pytest.raises(
        DataError, match=r"nowhere.* \(nowhere does not exist\); put it there, or name .* in params.yaml"
    ):
        prepare.main()
    assert outputs(project) == {}
