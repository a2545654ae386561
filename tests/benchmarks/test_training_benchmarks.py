"""The benchmarks of training run at toy size; what they measure is told by their real size only."""

import json
import runpy
import statistics

import pytest
import torch

from benchmarks import random_training
from pipeline.training import losses
from tests.conftest import ROOT

SMALL = "--answer 4 --hidden 32 --layers 1 --vocab 200 --rounds 2"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(name, words, tmp_path):
    """The values a benchmark returns, which are those it writes."""
    results = tmp_path / "new" / "results.json"
    found = runpy.run_path(str(ROOT / f"benchmarks/{name}.py"))["main"]([*words.split(), "--results", str(results)])
    written = json.loads(results.read_text())
    assert written == json.loads(json.dumps(found))
    assert written["torch"] == torch.__version__ and written["date"]
    assert "results" not in written["arguments"]
    return found


def test_steps_are_measured_and_exact_pairs_have_equal_gradients(capsys, tmp_path):
    found = run("step", f"{SMALL} --tokens 96 --no-trl", tmp_path)
    printed = capsys.readouterr().out
    assert [row["way"] for row in found["rows"]] == [
        "vanilla, full logits", "vanilla, answer logits", "focused, naive", "focused, `token`", "focused, `skip`",
        "vanilla, a row each", "vanilla, one row", "focused `skip`, a row each", "focused `skip`, one row",
    ]  # fmt: skip
    for row in found["rows"]:
        assert len(row["seconds"]) == 2 and row["mib"] > 0
        assert f"| {row['way']} | {statistics.median(row['seconds']):.2f} | {row['ratio']}" in printed
    by_name = {row["way"]: row for row in found["rows"]}
    assert by_name["vanilla, full logits"]["mib"] > by_name["vanilla, answer logits"]["mib"]
    assert max(found["differences"].values()) <= 1e-4
    assert len(found["differences"]) == 4
    assert "| `skip` to vanilla, seconds | at most 1.40 |" in printed
    assert "pip install trl" in printed


def test_a_step_with_another_gradient_fails_the_run():
    step = runpy.run_path(str(ROOT / "benchmarks/step.py"))

    class Warmer:
        """What the naive step takes its loss from; ours has its own."""

        @staticmethod
        def info_nce(full, masked, temperature):
            return losses.info_nce(full, masked, 2 * temperature)

    step["naive"].__globals__["losses"] = Warmer
    with pytest.raises(AssertionError, match="gradients of focused, naive and focused, `token`"):
        step["main"](f"{SMALL} --tokens 96 --no-trl".split())


@pytest.mark.parametrize("dtype, allowed, peer", [("float32", 1e-4, 1e-2), ("float64", 1e-9, 1e-9)])
def test_negatives_are_measured_and_every_way_has_one_gradient(capsys, tmp_path, dtype, allowed, peer):
    found = run("negatives", f"{SMALL} --tokens 96 --batch 4 --dtype {dtype}", tmp_path)
    printed = capsys.readouterr().out
    assert len(found["rows"]) == 8
    *ours, theirs = found["differences"].values()
    assert len(ours) == 3 and max(ours) <= allowed
    assert theirs <= peer
    slopes = {row["way"]: row["mib_per_example"] for row in found["rows"]}
    assert slopes["cached"] < slopes["graph, checkpointing"] < slopes["graph"]
    assert "| cached to single steps, no contrastive loss | at most 1.40 |" in printed


def test_padded_rows_are_measured_beside_rows_alone(capsys, tmp_path):
    found = run("packing", "--batch 3 --lengths 20 40 --rounds 1", tmp_path)
    assert found["rows"][0]["forwards"] == 6
    assert found["rows"][0]["padding"] == 0
    assert max(found["differences"].values()) <= 1e-4
    assert "| each row alone | 6 | 0% |" in capsys.readouterr().out


def test_a_gpu_is_measured_and_memory_that_is_not_there_is_told(capsys, tmp_path, monkeypatch):
    words = "--device cpu --hidden 32 --layers 1 --vocab 200 --answer 4 --questions 2 --batch 2 --rounds 1 --lengths"
    found = run("gpu", f"{words} 96 128", tmp_path)
    assert [row["tokens"] for row in found["rows"]] == [96] * 6 + [128] * 6
    assert all(row["tokens_per_second"] > 0 and row["mfu"] > 0 for row in found["rows"])
    assert len(found["differences"]) == 2 and max(found["differences"].values()) <= 1e-3
    assert "| 128 | shared skip, 2 questions |" in capsys.readouterr().out
    accumulate = random_training.accumulate

    def network_type(encoder):
        return encoder.network.get_output_embeddings().weight.dtype

    def small(encoder, made, objective, negatives):
        if negatives == "cached" and network_type(encoder) == torch.bfloat16:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        accumulate(encoder, made, objective, negatives)

    monkeypatch.setattr(random_training, "accumulate", small)
    found = run("gpu", f"{words} 96", tmp_path)
    assert [row.get("none") for row in found["rows"]] == [None] * 5 + ["out of memory"]
    assert "| 96 | cached skip, 2 examples | out of memory |" in capsys.readouterr().out


def test_flops_of_the_gpu_benchmark_are_those_of_the_arithmetic():
    """Mistral-7B, 8,192 tokens, checkpointed: three forwards of the frozen matrices, 4.5 of the attention."""
    gpu = runpy.run_path(str(ROOT / "benchmarks/gpu.py"))
    config = {
        "model_type": "mistral", "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32_000, "sliding_window": None,
    }  # fmt: skip
    shape = gpu["model_shape"].parse(config, 2, "the test")
    made = random_training.examples(4, tokens=8192, answer=32, chunks=40, keep=10, vocab=32_000, one_document=True)
    assert gpu["row_flops"](shape, made.full[0], cached=False) == pytest.approx(
        3 * 13.96e9 * 8192 + 4.5 * 262_144 * 8192**2, rel=0.01
    )
    shared, alone = (sum(map(gpu["pairs"], rows)) for rows in ([made.shared], made.full))
    document, own = made.shared.num_shared, 8192 - made.shared.num_shared
    assert alone - shared == 3 * document * (document + 1) / 2
    assert gpu["pairs"](made.full[0]) == 8192 * 8193 / 2
    assert own > 0
