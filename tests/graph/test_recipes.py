"""The recipes of CONTRIBUTING.md, followed to the letter in a copy of the project, in which DVC then really runs.

A toy method and a toy benchmark take five files each. The toy retriever has its own test in tests/retrieval.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.common import tables
from pipeline.evaluation import schema
from tests.conftest import ROOT
from tests.graph.project import Project

READER = '''"""Toy: which of four towns is at the sea."""

from collections.abc import Iterator

from pipeline.common.tables import Document, Evidence
from pipeline.data import splits
from pipeline.data.jsonl import OfficialRecord, Text
from pipeline.data.splits import Group, OfficialFiles


class ToyRecord(OfficialRecord):
    """One line of the file."""

    id: Text
    question: Text
    answer: Text
    stories: list[Text]


def read(files: OfficialFiles) -> Iterator[Group]:
    """Yield each question with its stories as documents; the story that holds the answer is gold."""
    for split, place, record in files.parse(ToyRecord):
        documents = [Document(f"toy-{record.id}-{n}", "", story, whole=True) for n, story in enumerate(record.stories)]
        evidence = [
            Evidence(document.document_id, 0, len(document.text))
            for document in documents
            if record.answer in document.text
        ]
        names = [document.document_id for document in documents]
        asked = splits.example("toy", split, record.id, record.question, [record.answer], names, evidence)
        yield Group(split, place, record.id, documents, [asked])
'''

BUNDLE = """kind: toy
source: input/toy
files:
  train: [{name: train.jsonl}]
  dev: [{name: dev.jsonl}]
  test: [{name: test.jsonl}]
seed: 1
dev_fraction: 0.0
test_fraction: 0.0
max_questions: null
"""

TOWNS = ["Ashby", "Brill", "Corfe", "Derby", "Esher", "Frome", "Goole", "Hythe"]


def recipe(kind: str) -> list[str]:
    """The files that CONTRIBUTING.md names for adding one of this kind."""
    (row,) = re.findall(rf"^\| {kind} \| ([^|]*) \|", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.M)
    return re.findall(r"`([^`]+)`", row)


class Recipe:
    """Edits in a copy of the project; it remembers which files they touched."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.files: set[str] = set()

    def create(self, file: str, text: str) -> None:
        assert not (self.root / file).exists(), file
        (self.root / file).write_text(text, encoding="utf-8")
        self.files.add(file)

    def replace(self, file: str, before: str, after: str) -> None:
        text = (self.root / file).read_text(encoding="utf-8")
        assert text.count(before) == 1, (file, before, text.count(before))
        (self.root / file).write_text(text.replace(before, after), encoding="utf-8")
        self.files.add(file)


def add_benchmark(root: Path) -> set[str]:
    recipe = Recipe(root)
    recipe.create("pipeline/data/benchmarks/toy.py", READER)
    recipe.create("conf/data/toy.yaml", BUNDLE)
    recipe.replace("pipeline/runtime/settings.py", '"longbench", "squality"]', '"longbench", "squality", "toy"]')
    load = "pipeline/data/load.py"
    recipe.replace(load, '    "nq": _nq,\n', '    "nq": _nq,\n    "toy": partial(official, toy.read),\n')
    recipe.replace(load, "squality\n", "squality, toy\n")
    recipe.replace(
        "pipeline/views/tasks.py", "TASKS = {\n", 'TASKS = {\n    "toy": Task("Name the town.", "exact_match", 4),\n'
    )
    return recipe.files


def add_method(root: Path) -> set[str]:
    """Method `masked` is tuned on masked views alone."""
    recipe = Recipe(root)
    methods = "pipeline/runtime/methods.py"
    recipe.replace(methods, 'Trained = Literal["vanilla", ', 'Trained = Literal["masked", "vanilla", ')
    recipe.replace(methods, "= (VANILLA, FOCUSED, GUIDED)", '= (VANILLA, FOCUSED, GUIDED, "masked")')
    last = "    GUIDED: Method(\n"
    recipe.replace(methods, last, '    "masked": Method("masked views alone", "#b0006d", "cross"),\n' + last)
    recipe.replace(
        "pipeline/training/objective.py",
        "    methods.GUIDED: _guided,\n",
        '    methods.GUIDED: _guided,\n    "masked": lambda settings: VANILLA._replace(full=0.0, masked=1.0),\n',
    )
    vanilla = '    "train@vanilla": ("lora", "model", "train"),\n'
    recipe.replace("pipeline/runtime/settings.py", vanilla, vanilla + vanilla.replace("vanilla", "masked"))
    recipe.replace(
        "pipeline/runtime/curves.py",
        'masked view", "nats per answer token", (FOCUSED,)),',
        'masked view", "nats per answer token", (FOCUSED, "masked")),',
    )
    yaml = YAML()
    graph = yaml.load((root / "dvc.yaml").read_text())
    train = graph["stages"]["train"]["foreach"]
    train["masked"] = {**train["focused"], "loss": "train", "weights": "train", "attention": "train"}
    for stage in ("evaluate", "surface"):
        graph["stages"][stage]["foreach"].append("masked")
    graph["stages"]["analyze"]["deps"].append("models/masked")
    with (root / "dvc.yaml").open("w") as file:
        yaml.dump(graph, file)
    recipe.files.add("dvc.yaml")
    return recipe.files


def write_questions(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, num in (("train", 24), ("dev", 4), ("test", 8)):
        with (folder / f"{split}.jsonl").open("w") as file:
            for n in range(num):
                towns = [TOWNS[(n + step) % len(TOWNS)] for step in range(4)]
                place = n % 4
                stories = [
                    f"{town} is a town {'at the sea' if at == place else 'in the hills'}. It has {split} road {n}."
                    for at, town in enumerate(towns)
                ]
                record = {"question": "Which town is at the sea?", "answer": towns[place], "stories": stories}
                file.write(json.dumps({"id": f"{split}-{n}", **record}) + "\n")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The project with a toy method and a toy benchmark, run as far as the method's predictions."""
    project = Project(tmp_path_factory.mktemp("recipes"))
    write_questions(project.root / "input/toy")
    for kind, add in (("a benchmark", add_benchmark), ("a method", add_method)):
        touched = {file.replace("toy", "<name>") for file in add(project.root)}
        assert touched == set(recipe(kind))
    yaml = YAML()
    params: dict[str, Any] = yaml.load((project.root / "params.yaml").read_text())
    params["use"] |= {"data": "toy", "retriever": "bm25"}
    params["validation"]["retrievers"] = ["bm25"]
    params["data"] = {}
    with (project.root / "params.yaml").open("w") as file:
        yaml.dump(params, file)
    assert project.repro("dvc", "repro", "evaluate@masked")[-2:] == ["train@masked", "evaluate@masked"]
    return project


def test_a_new_benchmark_goes_through_the_graph(project: Project):
    examples = tables.frame(tables.EXAMPLES.at(project.root / tables.EXAMPLES.path))
    assert examples["benchmark"].unique().to_list() == ["toy"]
    counts = dict(examples.group_by("split").len().iter_rows())
    assert counts == {"train": 24, "dev": 4, "test": 8}


def test_a_new_method_is_trained_and_answers(project: Project):
    predictions = schema.predictions_of("masked")
    rows = tables.frame(predictions.at(project.root / predictions.path))
    assert set(rows["method"]) == {"masked"} and set(rows["input"]) == {"full", "retrieval"}
    assert (project.root / "reports/train/masked/plots/metrics/train/clm_masked.tsv").is_file()


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("a retriever", 3), ("a method", 5), ("a benchmark", 5), ("a measure", 2), ("a training curve", 2),
        ("a column of predictions", 2), ("a figure", 3),
    ],
)  # fmt: skip
def test_a_change_touches_few_files_and_all_of_them_exist(kind: str, most: int):
    files = recipe(kind)
    assert 0 < len(files) <= most
    for file in files:
        assert "<name>" in file or (ROOT / file).exists(), file
