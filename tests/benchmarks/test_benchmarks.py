"""The benchmarks run at toy size and print what they promise; what they measure is told by their real size only."""

import json
import runpy

import pytest
import torch
import transformers

from tests import tiny_bert
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
    answer = evaluate["prefix_cache"].answer

    def wrong(network, prefix, *rest, **settings):
        return answer(network, prefix[1:], *rest, **settings)

    monkeypatch.setattr(evaluate["prefix_cache"], "answer", wrong)
    with pytest.raises(AssertionError, match="weigh options: document read once and a forward per option"):
        evaluate["main"](TOY.split())


@pytest.fixture
def score(one_thread, tmp_path, monkeypatch):
    """The benchmark with a tiny encoder in MiniLM's place."""
    run = runpy.run_path(str(ROOT / "benchmarks/score.py"))
    settings = tiny_bert.retriever(tiny_bert.save(tmp_path / "bert"))
    monkeypatch.setattr(run["config"], "load_retrievers", lambda *_: {"minilm": settings})
    texts = [" ".join(f"word{place * 31 + number}" for place in range(40 + number)) for number in range(4)]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return run, [str(tmp_path / "texts.jsonl"), *"--chunks 12 --words 5 --rounds 2".split()]


def test_scoring_is_measured_against_sentence_transformers(score, capsys):
    run, words = score
    rows = run["main"](words)
    printed = capsys.readouterr().out
    names = [row["way"] for row in rows]
    assert names[0] == "SentenceTransformer.encode (fp32)"
    assert {"ours, fp32", "ours, kind sentence_transformer, fp32"} < set(names)
    for row in rows:
        assert row["seconds"] > 0 and row["tokens_per_token"] >= 1
        assert f"| {row['way']} |" in printed
    assert rows[0]["ratio"] == rows[0]["ratio_to_fp32"] == 1
    for row in rows:
        if row["way"].endswith("fp32"):
            assert row["min_cosine"] > 0.9999 and row["top_k_overlap"] == 1
    assert "12 chunks of 5 words at most, 12 questions; 2 rounds" in printed


def test_other_embeddings_than_those_of_sentence_transformers_fail_the_run(score, monkeypatch):
    run, words = score
    embed = run["encoder"].TextEncoder.embed
    monkeypatch.setattr(run["encoder"].TextEncoder, "embed", lambda own, batch: embed(own, batch)[:, ::-1])
    with pytest.raises(AssertionError, match="ours, fp32: a cosine of"):
        run["main"](words)


def test_too_few_chunks_are_said(score):
    run, words = score
    with pytest.raises(SystemExit, match=r"texts\.jsonl: .* chunks of 5 words, --chunks is 5,000; lower it"):
        run["main"]([*words, "--chunks", "5000"])


def test_a_plan_is_measured_beside_its_prediction(capsys):
    rows = runpy.run_path(str(ROOT / "benchmarks/plan.py"))["main"](["--batch", "2", "--tokens", "32", "--rounds", "1"])
    printed = capsys.readouterr().out
    assert [row["way"] for row in rows] == [
        "vanilla", "vanilla, checkpointing", "focused", "focused, checkpointing",
    ]  # fmt: skip
    for row in rows:
        assert row["seconds_ratio"] > 0
        assert f"| {row['way']} | " in printed


def test_the_scale_of_stages_is_measured_process_by_process(capsys):
    main = runpy.run_path(str(ROOT / "benchmarks/scale.py"))["main"]
    found = main("--documents 12 24 --questions 4 --words 20 --stages prepare chunk".split())
    assert list(found) == ["prepare", "chunk"] and all(len(costs) == 2 for costs in found.values())
    assert all(cost.seconds > 0 and cost.peak_mib > 50 for costs in found.values() for cost in costs)
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].startswith("| stage | 4 questions, 12 documents: s | MiB | 4 questions, 24 documents: s | MiB |")
    assert [line.split(",")[0].split()[0] for line in printed[-2:]] == ["documents", "documents"]
