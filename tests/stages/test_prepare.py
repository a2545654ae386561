"""Stage prepare: all benchmarks in one shape; bad input leaves the earlier files as they are."""

import hashlib
import json
import os
import shutil
import subprocess
import sys

import pytest
from ruamel.yaml import YAML

from pipeline.common import files, tables
from pipeline.runtime.errors import DataError, PipelineError
from pipeline.stages import prepare
from tests.conftest import ELSEWHERE, ROOT


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with the settings, a few documents and questions, and the outputs of one run."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "tests/data/own", tmp_path / "input/own")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SPLITS = ("train", "dev", "test")


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
    choose("jsonl", source="input/own")
    prepare.main()
    documents = {row["document_id"]: row for row in tables.scan(tables.DOCUMENTS)}
    examples = {row["example_id"]: row for row in tables.scan(tables.EXAMPLES)}
    assert [name for name, row in documents.items() if row["whole"]] == ["minutes"]
    assert [examples[name]["split"] for name in examples] == ["train", "train", "dev", "test", "test", "test"]
    [span] = examples["q4"]["evidence"]
    assert documents["harbour"]["text"][span["start"] : span["end"]] == "31 metres high"
    summary = files.read_json(prepare.SUMMARY, "prepare")
    assert summary["rejects"] == {"num_lines": 12, "num_rejects": 0, "first_rejects": []}
    assert summary["splits"]["test"]["num_examples_by_num_documents"] == {"2": 1, "3": 2}
    assert capsys.readouterr().out == (
        "prepare: 6 documents (38 words on average, 61 at most); 6 examples (train 2, dev 1, test 3); "
        "the gold document is known in 5 of 6 examples with answers\n"
    )


def test_bios_twice_gives_the_same_bytes(project, capsys):
    surface = {"surface_questions": 2, "surface_documents": [2, 4], "surface_name_sharing_rates": [0.0, 1.0]}
    sizes = {"test_documents": [2, 4], "train_documents": [3]}
    numbers = {"train_questions": 6, "unlabelled_questions": 5, "dev_questions": 3, "test_questions": 4}
    choose("bios", **numbers, **sizes, **surface)
    prepare.main()
    first = outputs(project)
    assert set(first) == {"documents.parquet", "examples.parquet", "prepare.json"}
    prepare.main()
    assert outputs(project) == first
    subprocess.run([sys.executable, "-m", "pipeline.stages.prepare"], env=os.environ | ELSEWHERE, check=True)
    assert outputs(project) == first
    summary = files.read_json(prepare.SUMMARY, "prepare")
    assert summary["splits"]["test"] == {
        "num_questions": 4,
        "num_examples": 8,
        "num_gold_known": 8,
        "num_examples_by_num_documents": {"2": 4, "4": 4},
    }
    assert summary["leaks"] == {"num_documents": 0, "num_questions": 0}
    assert "30 examples (train 6, unlabelled 5, dev 3, test 8, surface 8)" in capsys.readouterr().out


def write_lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_nq_from_a_folder(project, capsys):
    names = ["alpha", "beta", "gamma", "delta"]
    write_lines(
        project / "nq/oracle.jsonl",
        [
            {"question": f"what is {name}", "answers": [name], "ctxs": [{"text": f"It is {name}.", "isgold": True}]}
            for name in names
        ],
    )
    asked = ["what is alpha", "what is omega", "what is pi"]
    write_lines(project / "nq/open.jsonl", [{"question": text, "answer": [text.split()[-1]]} for text in asked])
    passages = [{"title": "Greek", "text": f"A letter is {name}."} for name in ("omega", "rho", "tau")]
    (project / "nq/passages.json").write_text(json.dumps(passages))
    chosen = {"train": [{"name": "open.jsonl"}], "dev": [], "test": [{"name": "oracle.jsonl"}]}
    choose(
        "nq", source="nq", files=chosen, passages=[{"name": "passages.json"}], num_documents=[2, 3], dev_fraction=0.0
    )
    prepare.main()
    printed = capsys.readouterr().out
    assert "9 examples (train 1, dev 0, test 8)" in printed
    assert "left out: 1 question asked in test, 1 question without a gold passage" in printed
    assert all(row["whole"] for row in tables.scan(tables.DOCUMENTS))
    [train] = [row for row in tables.scan(tables.EXAMPLES) if row["split"] == "train"]
    assert (train["question"], train["answers"]) == ("what is omega", ["omega"])
    summary = files.read_json(prepare.SUMMARY, "prepare")
    digest = hashlib.sha256((project / "nq/open.jsonl").read_bytes()).hexdigest()
    assert summary["files"][0].items() >= {"part": "train", "name": "open.jsonl", "sha256": digest}.items()
    assert [file["part"] for file in summary["files"]] == ["train", "test", "passages"]
    assert summary["left_out"] == {"questions asked in test": 1, "questions without a gold passage": 1}


REAL = {
    "quality": (
        {"train": [{"name": "quality_leval_dev.jsonl"}], "dev": [], "test": [{"name": "quality_example_text.jsonl"}]},
        "quality",
        {"dev_fraction": 0.2},
        {"train": 8, "dev": 2, "test": 1},
        136,
    ),
    "qasper": (
        {"train": [{"name": "qasper_pieces.json"}], "dev": [], "test": [{"name": "qasper_test80_degraded.json"}]},
        "qasper",
        {"dev_fraction": 0.1},
        {"train": 17, "dev": 2, "test": 38},
        121 + 58,
    ),
    "hotpot": (
        {"train": [{"name": "hotpot_dev_distractor_sample.json"}], "dev": [], "test": []},
        "hotpotqa",
        {"test_fraction": 0.5},
        None,
        67,
    ),
    "longbench": (
        {"train": [], "dev": [], "test": [{"name": f"{name}.jsonl"} for name in ("hotpotqa", "musique", "2wikimqa")]},
        "longbench_style",
        {},
        None,
        23,
    ),
    "squality": (
        {"train": [{"name": "squality_v1-3_train.jsonl"}], "dev": [], "test": [{"name": "squality_v1-3_dev.jsonl"}]},
        "text",
        {"dev_fraction": 0.1},
        {"train": 45, "dev": 5, "test": 17},
        250 + 85,
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_samples_of_every_official_benchmark_pass_the_checks_twice_alike(project, shared, name):
    chosen, folder, settings, num_contexts, num_examples = REAL[name]
    choose(name, source=str(shared / "data" / folder), files=chosen, **settings)
    prepare.main()
    first = outputs(project)
    examples = list(tables.scan(tables.EXAMPLES))
    assert len(examples) == num_examples and {row["benchmark"] for row in examples} == {name}
    if num_contexts is not None:
        contexts = {split: {row["document_ids"][0] for row in examples if row["split"] == split} for split in SPLITS}
        assert {split: len(found) for split, found in contexts.items()} == num_contexts
        assert sum(map(len, contexts.values())) == len(set().union(*contexts.values()))
    prepare.main()
    assert outputs(project) == first


def test_an_official_file_that_is_not_in_the_folder_is_named(project):
    (project / "own").mkdir()
    write_lines(project / "own/mine.jsonl", [{}])
    choose("quality", source="own")
    with pytest.raises(PipelineError, match=r"QuALITY\.v1\.0\.1\.htmlstripped\.train.*mine\.jsonl"):
        prepare.main()
    assert outputs(project) == {}


LIGHT = "Anna Vrba kept the light. She left in 1871."
ASKED = {"id": "q1", "question": "Who kept the light?", "answers": ["Anna Vrba"], "documents": ["d1"], "split": "test"}
FOLDERS = {
    "lists": {
        "documents.json": json.dumps([{"id": "d1", "title": None, "text": LIGHT}], indent=1),
        "questions.json": json.dumps([{**ASKED, "gold": None}], indent=1),
    },
    "CR line ends": {
        "documents.jsonl": json.dumps({"id": "d", "text": "x"}) + "\r" + json.dumps({"id": "d1", "text": LIGHT}),
        "questions.jsonl": json.dumps(ASKED) + "\r",
    },
    "SQuAD": {
        "dev-v2.0.json": json.dumps(
            {"data": [{"title": "", "paragraphs": [{"context": LIGHT, "qas": [
                {"id": "q1", "question": ASKED["question"], "answers": [{"text": "Anna Vrba", "answer_start": 0}]},
                {"id": "q2", "question": "Who built it?", "answers": [], "is_impossible": True},
            ]}]}]}
        )
    },
    "Hugging Face": {"test.jsonl": json.dumps({**ASKED, "documents": None, "context": [LIGHT, "Another."]})},
    "DPR": {
        "nq-train.json": json.dumps([
            {"question": ASKED["question"], "answers": ["Anna Vrba"], "positive_ctxs": [{"title": "", "text": LIGHT}],
             "hard_negative_ctxs": [{"title": "", "text": "Another."}], "negative_ctxs": []}
        ])
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_any_kind_becomes_documents_and_examples(project, capsys, name):
    (project / "own").mkdir()
    for file, text in FOLDERS[name].items():
        (project / "own" / file).write_bytes(text.encode())
    choose("jsonl", source="own")
    prepare.main()
    [example] = tables.scan(tables.EXAMPLES)
    texts = {row["document_id"]: row["text"] for row in tables.scan(tables.DOCUMENTS)}
    assert (example["question"], example["answers"]) == (ASKED["question"], ["Anna Vrba"])
    assert LIGHT in [texts[document_id] for document_id in example["document_ids"]]
    printed = capsys.readouterr().out
    assert ("left out: 1 question without an answer" in printed) == (name == "SQuAD")
    unknown = "the gold document is known in 0 of 1 example with answers"
    assert (unknown in printed) == (name in ("lists", "CR line ends", "Hugging Face"))


REFUSED = {
    "key twice": ("questions.jsonl", '{"id": "a", "id": "b"}\n', r'line 1: the key "id" stands twice in one object'),
    "empty file": ("questions.jsonl", "", r"questions.jsonl: there is not one row in the file"),
    "empty list": ("documents.jsonl", "[]", r"documents.jsonl: there is not one row in the file"),
    "invisible": (
        "documents.jsonl",
        '[{"id": "d", "text": "\u200b"}]',
        r"entry 1: text must not be empty \(no character of it can be seen\); mend the row",
    ),
    "nothing answerable": (
        "questions.jsonl",
        '{"id": "q", "question": "Who?", "context": "A mill.", "answers": {"text": [], "answer_start": []}}',
        r"not one question to ask \(left out: 1 question without an answer\); look at the files",
    ),
    "no question": ("questions.jsonl", '{"prompt": "x", "completion": "y"}', r"no question.*a row is {\"id\": \"q1\""),
    "NUL": ("questions.jsonl", "\0\0\0\0\0", "this is a damaged file of NUL bytes, not JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_folder_leaves_earlier_files_as_they_are(project, name):
    choose("jsonl", source="input/own")
    prepare.main()
    before = outputs(project)
    file, text, message = REFUSED[name]
    (project / "input/own" / file).write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        prepare.main()
    assert "\n" not in str(caught.value) and outputs(project) == before


def test_documents_with_the_words_of_another_one_are_merged_or_told(project, capsys):
    lines = [{"id": name, "title": title, "text": text} for name, title, text in (
        ("d1", "Light", LIGHT), ("d2", "Light", LIGHT), ("d3", "Beacon", LIGHT), ("d4", "", "Another.")
    )]  # fmt: skip
    write_lines(project / "own/documents.jsonl", lines)
    write_lines(project / "own/questions.jsonl", [{**ASKED, "documents": ["d3", "d4", "d2"], "gold": ["d2"]}])
    choose("jsonl", source="own")
    prepare.main()
    printed = capsys.readouterr().out
    assert "left out: 1 document with the title and text of another one" in printed
    assert "1 document with the words of another one, gold where it is; give each text" in printed
    [example] = tables.scan(tables.EXAMPLES)
    assert (example["document_ids"], example["gold_document_ids"]) == (["d3", "d4", "d1"], ["d3", "d1"])


def append(path, text):
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def break_last_question(project):
    append(project / "input/own/questions.jsonl", '{"id": "q7", "question": "Cut o')


def test_a_broken_line_leaves_earlier_files_as_they_are(project):
    choose("jsonl", source="input/own")
    prepare.main()
    before = outputs(project)
    append(project / "input/own/documents.jsonl", '{"id": "new", "text": "A new document."}\n')
    break_last_question(project)
    with pytest.raises(DataError, match=r"questions.jsonl, line 7: not valid JSON .*on_error: skip"):
        prepare.main()
    assert outputs(project) == before


def test_bad_lines_can_be_left_out_and_are_counted(project, capsys):
    break_last_question(project)
    choose("jsonl", source="input/own", on_error="skip", max_bad_fraction=0.1)
    prepare.main()
    assert "1 bad line left out (the first ones stand in reports/prepare.json)" in capsys.readouterr().out
    [reject] = files.read_json(prepare.SUMMARY, "prepare")["rejects"]["first_rejects"]
    assert reject["place"] == "input/own/questions.jsonl, line 7"


def test_too_many_bad_lines_leave_earlier_files_as_they_are(project):
    choose("jsonl", source="input/own")
    prepare.main()
    before = outputs(project)
    break_last_question(project)
    choose("jsonl", source="input/own", on_error="skip", max_bad_fraction=0.05)
    with pytest.raises(DataError, match=r"1 of 13 lines are bad, data.max_bad_fraction allows 0.05"):
        prepare.main()
    assert outputs(project) == before


def test_a_leak_between_splits_is_said(project, capsys):
    path = project / "input/own/questions.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace('"split": "dev"', '"split": "train"'), encoding="utf-8")
    line = {
        "id": "q7",
        "split": "test",
        "question": "Who founded the school of navigation?",
        "answers": ["Henrik Aune", "Captain Henrik Aune"],
    }
    append(path, json.dumps(line | {"documents": ["school"]}) + "\n")
    choose("jsonl", source="input/own")
    prepare.main()
    assert (
        "WARNING: 1 document and 1 question of train stand in dev or test too, where a trained model"
        in capsys.readouterr().out
    )


def test_files_that_are_not_read_are_named(project, capsys):
    for name in ("train-v2.0.json", "more.csv", "notes.txt"):
        (project / "input/own" / name).write_text("[]")
    choose("jsonl", source="input/own")
    prepare.main()
    said = capsys.readouterr().out
    assert "; WARNING: not read: more.csv, train-v2.0.json; beside questions.jsonl no other file" in said
    assert "notes.txt" not in said and said.count("\n") == 1


@pytest.mark.parametrize(
    ("split", "said"),
    [
        (
            "unlabelled",
            "unlabelled 1, dev 0, test 0); nothing to train on: `dvc repro evaluate@base` is as far as it goes; WARN",
        ),
        ("train", "1 example (train 1, dev 0, test 0); WARNING: no test questions, so nothing can be evaluated; give"),
        ("dev", "WARNING: no test questions, .* the split test, or set eval.split: dev; the gold"),
        ("test", "test 1); nothing to train on: `dvc repro evaluate@base` is as far as it goes; the gold"),
    ],
)
def test_a_split_without_questions_is_said_before_anything_is_trained(project, capsys, split, said):
    write_lines(project / "own/documents.jsonl", [{"id": "d1", "text": LIGHT}])
    answers = [] if split == "unlabelled" else ASKED["answers"]
    write_lines(project / "own/questions.jsonl", [{**ASKED, "split": split, "answers": answers}])
    choose("jsonl", source="own")
    prepare.main()
    out = capsys.readouterr().out
    assert all(part in out for part in said.split(".*"))
    assert ("no test questions" in out) == (split != "test")


@pytest.mark.parametrize("name", ["jsonl", "nq"])
def test_a_missing_source_is_said_with_the_place_to_mend(project, name):
    choose(name, source="nowhere")
    with pytest.raises(
        DataError, match=r"nowhere.* \(nowhere (does not exist|is no folder)\); put it there, or name .* in params.yaml"
    ):
        prepare.main()
    assert outputs(project) == {}
