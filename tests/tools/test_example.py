"""`make example` and its notebook, at toy size in a copy of the project in which DVC runs."""

import json
import re
import shutil
import subprocess
import sys

import pytest

from pipeline.data.benchmarks.own_jsonl import DocumentLine, QuestionLine
from pipeline.runtime import config
from pipeline.runtime.errors import ConfigError
from pipeline.tools import example
from tests.conftest import ROOT
from tests.graph.project import Project

OWN = ROOT / "examples/own"


def lines(name: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in (OWN / name).read_text(encoding="utf-8").splitlines()]


def test_every_answer_stands_in_its_document_and_in_no_other_of_the_context():
    documents = {row["id"]: DocumentLine.model_validate(row) for row in lines("documents.jsonl")}
    questions = [QuestionLine.model_validate(row) for row in lines("questions.jsonl")]
    assert (len(documents), len(questions), len({each.question for each in questions})) == (60, 120, 120)
    assert all(60 <= len(each.text.split()) <= 150 for each in documents.values())

    def stands(answer: str, name: str) -> bool:
        return re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", documents[name].text, re.IGNORECASE) is not None

    for each in questions:
        [gold] = each.gold
        assert stands(each.answers[0], gold), each.id
        others = [name for name in each.documents if name != gold]
        assert not [name for name in others if any(stands(answer, name) for answer in each.answers)], each.id


def test_splits_share_no_document():
    of_split: dict[str, set[str]] = {}
    for each in lines("questions.jsonl"):
        of_split.setdefault(each["split"], set()).update(each["documents"])
    assert {split: len(names) for split, names in of_split.items()} == {"train": 36, "dev": 6, "test": 18}
    assert len(set.union(*of_split.values())) == 60


def test_the_settings_are_those_of_the_project_with_a_few_laid_over():
    own = config.read_yaml(OWN / "params.yaml")
    params = config.read_yaml(ROOT / "params.yaml")
    settings = config.resolve({name: {**params[name], **own.get(name, {})} for name in params}, ROOT)
    assert (settings.model.max_tokens, settings.train.steps, settings.train.seed) == (8192, 15, 1)
    assert set(own) <= set(params)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A copy in which the example takes the shipped base and two steps."""
    made = Project(tmp_path_factory.mktemp("example"))
    own = made.root / "examples/own/params.yaml"
    text = own.read_text()
    for old, new in (("smollm2", "tiny"), (" steps: 15", " steps: 2"), ("warmup_steps: 2", "warmup_steps: 1")):
        assert old in text
        text = text.replace(old, new)
    own.write_text(text)
    made.commit("smaller")
    return made


def test_it_prints_answers_before_and_after_and_leaves_the_project_alone(project):
    before = {name: (project.root / name).read_bytes() for name in ("params.yaml", "dvc.yaml")}
    done = project.run(sys.executable, "-m", "pipeline.tools.example")
    shown = done.stdout[done.stdout.index("What is the largest piece of the Herring Museum?") :]
    assert re.match(r".*\n  reference +the boat Sigrun\n  the untuned base +\S.*\n  vanilla fine-tuning +\S", shown)
    assert shown.count("reference ") == 3 and "Who is the warden of Gull Hut?" in shown
    assert re.search(r"exact matches on 36 test questions, .*: the untuned base \d+, vanilla fine-tuning \d+\n", shown)
    adapter = project.root / ".dvc/tmp/example/project/models/vanilla/adapter_model.safetensors"
    assert adapter.is_file() and ".dvc/tmp/example/project/models/vanilla" in shown
    assert project.run("git", "status", "--porcelain").stdout == ""
    assert {name: (project.root / name).read_bytes() for name in before} == before
    assert not (project.root / "dvc.lock").exists() and not (project.root / "models/vanilla").exists()
    [command] = re.findall(r"Next: make ask (.*?), or with", shown)
    given = 'METHOD="base vanilla" MOST=6 DOCUMENTS=examples/own QUESTION="..."'
    assert command == f"PROJECT=.dvc/tmp/example/project {given}"


def test_a_stage_that_fails_is_one_line_behind_its_own(project):
    own = project.root / "examples/own/questions.jsonl"
    whole = own.read_text()
    own.write_text(whole + "{\n")
    done = project.run(sys.executable, "-m", "pipeline.tools.example", check=False)
    own.write_text(whole)
    assert done.returncode == 6 and "Traceback" not in done.stdout + done.stderr
    assert "input/own/questions.jsonl, line 121: not valid JSON" in done.stderr
    assert "error: `dvc repro evaluate@base evaluate@vanilla` failed in .dvc/tmp/example/project; the" in done.stderr


def test_the_cells_of_the_notebook_run_in_their_order(project):
    cells = json.loads((ROOT / "examples/quickstart.ipynb").read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert all(cell.get("outputs", []) == [] for cell in cells) and len(codes) == 8
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(codes)],
        cwd=project.root / "examples",
        env=project.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Running stage" not in done.stdout  # all of it is there since the first test
    assert "│ 36 " in done.stdout
    table = done.stdout[done.stdout.index("ask: 60 documents with 60 chunks in ") :]
    assert "The models read 6 documents (6 chunks), those that the retriever ranks first" in table
    assert "kite-hut" in table and "instruction and question" in table


def test_without_a_repository_it_says_how_to_make_one(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["example"])
    with pytest.raises(ConfigError, match="is no git repository, which DVC needs"):
        example.main()
    assert not (tmp_path / ".dvc").exists()


def test_make_runs_it():
    command = ["make", "-n", "example", "METHOD=guided"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'python -m pipeline.tools.example --method "guided"' in done.stdout
