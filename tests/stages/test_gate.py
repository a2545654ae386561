"""The stage gate: what passes, what stops the run, and that its file changes with the verdict alone."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.common import files
from pipeline.runtime import errors, main
from pipeline.stages import gate
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    """A working folder with our conf/ and params.yaml."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    choose()


def choose(**changes):
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["gate"] |= {"min_gold_retained": 0.5, "override": False} | changes
    Path("params.yaml").write_text(json.dumps(params))


def given(
    retriever, gold_retained, num_known=40, num_whole=0, num_only_gold=0, num_equal_scores=0, whole_contexts=0,
    equal_contexts=0,
):  # fmt: skip
    train = {
        "num_examples": 50, "num_gold_known": num_known, "gold_retained": gold_retained, "num_whole": num_whole,
        "num_only_gold": num_only_gold, "num_equal_scores": num_equal_scores, "whole_contexts": whole_contexts,
        "equal_contexts": equal_contexts,
    }  # fmt: skip
    # The other splits are not trained on and stand in for no verdict.
    files.write_json(gate.MASK, {"top_k": 4, "splits": {"test": {"gold_retained": 0.5}, "train": train}})
    files.write_json(gate.RETRIEVAL, {"retriever": {"kind": retriever}})


def verdict():
    return report()["verdict"]


def report():
    gate.main()
    return files.read_json(gate.REPORT, "gate")


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_enough_gold_passes(share, capsys):
    given("encoder", share)
    assert verdict() == "passed"
    said = capsys.readouterr().out
    assert said.startswith("gate: passed; the top 4 chunks keep a gold chunk of ") and said.count("\n") == 1
    assert f"{share:.1%} of 40 train examples" in said


def test_too_little_gold_stops_the_run_with_one_line_that_says_how_to_go_on(capsys):
    given("bm25", 0.499)
    with pytest.raises(SystemExit) as caught:
        main.run(gate.main)
    assert caught.value.code == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    for part in (
        "49.9% of 40 train examples", "gate.min_gold_retained 50.0%", "mask.top_k", "use.retriever",
        "reports/validation.json", "gate.override: true",
    ):  # fmt: skip
        assert part in said
    assert not gate.REPORT.exists()


def test_an_override_trains_below_the_bar_and_says_so(capsys):
    given("fusion", 0.1)
    choose(override=True)
    assert verdict() == "overridden"
    assert "10.0% of 40 train examples, below gate.min_gold_retained 50.0%" in capsys.readouterr().out
    given("fusion", 0.9)
    assert verdict() == "passed"


@pytest.mark.parametrize("kind", ["oracle", "random", "worst"])
def test_controls_are_exempt(kind, capsys):
    given(kind, 0.0)
    assert verdict() == "exempt"
    assert f"{kind} is a control" in capsys.readouterr().out


def test_unknown_gold_passes_and_says_that_nothing_was_checked(capsys):
    given("encoder", None, num_known=0)
    assert verdict() == "unchecked"
    assert "nothing was checked" in capsys.readouterr().out
    files.write_json(gate.MASK, {"top_k": 4, "splits": {"test": {"num_gold_known": 9, "gold_retained": 0.0}}})
    assert verdict() == "unchecked"


def test_a_moved_bar_or_another_share_with_the_same_verdict_leaves_the_same_bytes():
    given("encoder", 0.8)
    verdict()
    before = gate.REPORT.read_bytes()
    choose(min_gold_retained=0.7)
    given("bm25", 0.75)
    verdict()
    assert gate.REPORT.read_bytes() == before


def test_examples_that_say_nothing_stand_apart_in_verdict_and_report(capsys):
    given("bm25", 0.6, num_known=40, num_whole=7, num_only_gold=3, num_equal_scores=2, whole_contexts=12)
    assert report() == {
        "verdict": "passed", "num_gold_known": 40, "num_whole": 7, "num_only_gold": 3, "num_equal_scores": 2,
    }  # fmt: skip
    said = capsys.readouterr().out
    assert "60.0% of 30 train examples (apart: 7 of which nothing is masked, 3 with gold chunks alone)" in said
    assert "2 with equal scores count as losing it" in said


@pytest.mark.parametrize("bar", [0.0, 0.5])
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        (
            {"num_whole": 10, "num_only_gold": 30, "whole_contexts": 10},
            r"no train example says whether gold chunks are found \(10 of which nothing is masked, 30 with gold chunks "
            "alone\\): .*; name the evidence in the gold documents more narrowly",
        ),
        ({"num_only_gold": 40}, r"no train example says whether gold chunks are found \(40 with gold chunks alone\): "),
        (
            {"num_only_gold": 5, "num_equal_scores": 35, "equal_contexts": 40, "gold_retained": 0.0},
            "encoder gave all chunks of a context one score, in every train example that could tell: the kept chunks "
            "were drawn by chance; choose another use.retriever",
        ),
        ({"num_known": 0, "equal_contexts": 43, "whole_contexts": 7}, "encoder gave all chunks of a context one score"),
    ],
)
def test_what_says_nothing_of_the_retriever_passes_no_gate(counts, said, bar, capsys):
    """Whatever the bar is, and whether gold chunks are known or not."""
    given("encoder", **{"gold_retained": None, **counts})
    choose(min_gold_retained=bar)
    with pytest.raises(errors.DataError, match=f"^reports/mask.json: {said}.*, or set gate.override: true$"):
        gate.main()
    assert not gate.REPORT.exists()
    choose(override=True)
    assert verdict() == "overridden"
    assert capsys.readouterr().out.startswith("gate: overridden; ")


def test_where_nothing_is_masked_the_run_stops_unless_it_is_overridden(capsys):
    given("encoder", None, num_whole=40, whole_contexts=50)
    with pytest.raises(errors.DataError, match=r"no context of a train example has more than 4.*lower mask.top_k"):
        gate.main()
    assert not gate.REPORT.exists()
    choose(override=True)
    assert verdict() == "overridden"
    given("oracle", None, num_whole=40, whole_contexts=50)
    assert verdict() == "exempt"


@pytest.mark.parametrize(("path", "stage"), [(gate.MASK, "mask"), (gate.RETRIEVAL, "score")])
def test_a_missing_report_names_the_stage_that_writes_it(path, stage):
    given("encoder", 0.8)
    path.unlink()
    with pytest.raises(errors.ArtifactError, match=rf"{path}: no such file; run `dvc repro {stage}` first"):
        gate.main()
