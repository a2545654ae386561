"""What the graph made, shared: cards with the results that belong to them, and what is out of date stays here."""

import json
from collections.abc import Iterator
from importlib.util import find_spec

import pytest
from huggingface_hub import ModelCard

from tests.graph.project import TOY, Project

MERGED = "models/merged-focused"


@pytest.fixture(scope="module")
def merged(project: Project) -> Iterator[Project]:
    project.run("python", "-m", "pipeline.tools.merge", "focused", "--out", MERGED)
    yield project
    project.run("rm", "-r", MERGED)


def test_the_card_of_an_adapter_says_nothing_of_runs_and_that_of_a_merged_model_has_its_results(merged: Project):
    adapter = ModelCard.load(merged.root / "models/focused/README.md")
    assert adapter.data.library_name == "peft" and "Results" not in adapter.text and "Code:" not in adapter.text
    card = ModelCard.load(merged.root / MERGED / "README.md")
    figures = json.loads((merged.root / "reports/eval/focused.json").read_text())["inputs"]
    inputs = {"full": "6 documents", "retrieval": "6 documents, retrieval at inference"}
    for name, told in inputs.items():
        of = figures[name]["by_num_documents"][-1]
        mean, low, high = (f"{100 * of['exact_match'][key]:.1f}" for key in ("mean", "low", "high"))
        assert f"| bios | test | {told} | exact match | {mean} | {low} to {high} | {of['n']} |" in card.text
    assert [found.dataset_name for found in card.data.eval_results] == [f"bios, {told}" for told in inputs.values()]
    assert "Code: commit " in card.text


def test_an_adapter_of_other_settings_or_with_changed_files_is_not_uploaded(project: Project):
    push = ("python", "-m", "pipeline.tools.push", "focused", "--repo", "me/model")
    readme = project.root / "models/focused/README.md"
    before = readme.read_bytes()
    try:
        readme.write_bytes(before + b"better\n")
        refused = project.run(*push, check=False)
        assert "models/focused: is not what the present state makes, changed since" in refused.stderr
        assert refused.returncode != 0 and "models/focused" in refused.stderr.partition("trained: ")[2]
    finally:
        readme.write_bytes(before)
    project.edit({"lora": {"rank": 4}})
    try:
        assert "trained: lora; run `dvc repro train@focused`" in project.run(*push, check=False).stderr
    finally:
        project.edit({"lora": {"rank": 8}})


@pytest.mark.parametrize("model", [(), ("--merged", MERGED)], ids=["adapter", "merged"])
def test_lm_evaluation_harness_scores_as_stage_evaluate_does(merged: Project, model: tuple[str, ...]):
    if find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed; the extra lm-eval brings it")
    merged.run("python", "-m", "pipeline.tools.export", "--out", "exports/lm-eval")
    done = merged.run("python", "examples/lm_eval/run.py", "focused", *model)
    num = TOY["data"]["test_questions"] * len(TOY["data"]["test_documents"])
    assert f" over {num} questions; stage evaluate has " in done.stdout
    assert "on the same; 0 questions are scored otherwise" in done.stdout
    merged.run("rm", "-r", "exports")
