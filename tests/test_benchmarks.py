"""The benchmarks run at toy size and print what they promise; what they measure is told by their real size only."""

import json
import runpy

import pytest
import torch
import transformers

from tests.conftest import ROOT

TOY = "--tokens 48 --questions 2 --options 3 --new-tokens 3 --rounds 2 --hidden 32 --layers 1"


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def evaluate(one_thread):
    return runpy.run_path(str(ROOT / "benchmarks/evaluate.py"))


def test_evaluation_is_measured_in_every_way_and_all_agree(evaluate, capsys, tmp_path):
    rows = evaluate["main"]([*TOY.split(), "--results", str(tmp_path / "rows.json")])
    printed = capsys.readouterr().out
    assert [(row["task"], row["way"]) for row in rows] == [
        ("weigh options", "a forward per option, all logits"),
        ("weigh options", "a forward per option, its logits"),
        ("weigh options", "document read once"),
        ("generate 3 tokens", "generation.generate"),
        ("generate 3 tokens", "document read once"),
    ]
    for row in rows:
        assert row["seconds"] > 0
        assert row["ratios"][0] <= row["ratio"] <= row["ratios"][1]
        assert row["difference"] <= 1e-4
        assert f"| {row['way']} |" in printed
    assert [row["ratio"] for row in rows if row["way"] == "document read once"] == [1, 1]
    assert f"torch {torch.__version__}, transformers {transformers.__version__}, 1 thread" in printed
    assert "2 questions of 3 options" in printed
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


def test_a_way_that_gives_other_numbers_fails_the_run(evaluate, monkeypatch):
    answer = evaluate["branches"].answer

    def wrong(network, prefix, *rest, **settings):
        return answer(network, prefix[1:], *rest, **settings)

    monkeypatch.setattr(evaluate["branches"], "answer", wrong)
    with pytest.raises(AssertionError, match="weigh options: document read once and a forward per option"):
        evaluate["main"](TOY.split())


def test_a_plan_is_measured_beside_its_prediction(capsys):
    rows = runpy.run_path(str(ROOT / "benchmarks/plan.py"))["main"](["--batch", "2", "--tokens", "32", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert [row["way"] for row in rows] == [
        "vanilla", "vanilla, checkpointing", "focused", "focused, checkpointing",
    ]  # fmt: skip
    for row in rows:
        assert row["seconds_ratio"] > 0
        assert f"| {row['way']} | " in printed
