"""Training on real tables with a toy base: equal runs, vanilla as a special case, the adapter in a fresh process."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from dvclive import Live
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, set_seed

from pipeline import adapters, tables, training, weights
from pipeline.core import batching, focus, masking, model
from pipeline.errors import NumericError
from pipeline.settings import Lora, Train
from tests.core import tiny
from tests.core.test_focus import FOCUSED, examples

LORA = Lora(rank=4, alpha=8, dropout=0.0, embedding="lora", norms=True)
TRAIN = Train(
    seed=1, steps=6, batch_examples=3, learning_rate=1e-2, embedding_learning_rate=1e-2, warmup_steps=1,
    max_grad_norm=1.0, log_every=2, activation_checkpointing=False,
)  # fmt: skip
TOKENIZER = b"{}"
CARD = weights.BaseCard(
    "toy", None, "0" * 64, 48, hashlib.sha256(TOKENIZER).hexdigest(), tiny.BOS, tiny.EOS, tiny.PAD, tiny.MASK
)


@pytest.fixture
def views(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Full and masked views of eight training examples and one test example, and a base's tokenizer."""
    monkeypatch.chdir(tmp_path)
    weights.BASE.mkdir(parents=True)
    (weights.BASE / "tokenizer.json").write_bytes(TOKENIZER)
    rows = list(examples(9))
    full, masked = [], []
    for number, (ids, starts, ends, prompt_end, kept) in enumerate(rows):
        name = f"e{number}"
        full.append(
            {
                "example_id": name, "question_id": name, "split": "test" if number == 4 else "train",
                "num_documents": 4, "gold_position": 0, "document_ids": [f"d{number}", "x", "y", "z"],
                "input_ids": ids.tolist(), "chunk_ids": list("abcd"), "chunk_starts": starts.tolist(),
                "chunk_ends": ends.tolist(), "question_start": int(ends[-1]), "prompt_end": prompt_end,
            }
        )  # fmt: skip
        view = masking.masked_view(ids, starts, ends, prompt_end, kept, "token", tiny.MASK)
        masked.append(
            {
                "example_id": name, "input_ids": view.input_ids.tolist(), "position_ids": view.position_ids.tolist(),
                "prompt_end": view.prompt_end, "kept_chunk_ids": ["a"], "kept_scores": [1.0], "kept_ranks": [0],
                "gold_retained": True, "answer_retained": True,
            }
        )  # fmt: skip
    tables.write(tmp_path / "full.parquet", tables.FULL_VIEWS, full)
    tables.write(tmp_path / "masked.parquet", tables.MASKED_VIEWS, masked)
    return tmp_path


def train(views: Path, name: str, objective: focus.Objective, settings: Train = TRAIN) -> Path:
    """Train the toy base and return the adapter's folder."""
    keys = training.context_keys(views / "full.parquet")
    batches = batching.schedule(keys, settings.steps, settings.batch_examples, settings.seed)
    masked = views / "masked.parquet" if objective.reads_masked else None
    dataset = training.Scheduled(batches, views / "full.parquet", masked)
    set_seed(settings.seed)
    adapted = model.add_adapter(tiny.network(), **LORA.model_dump(), mask_id=tiny.MASK)
    with Live(str(views / f"{name}-curves"), save_dvc_exp=False, report=None, dvcyaml=None) as live:
        training.fit(adapted, dataset, objective, settings, tiny.PAD, live, views / f"{name}-state")
    adapters.save(adapted, CARD, views / name)
    return views / name


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def test_only_training_rows_are_read_and_paired_by_example(views: Path):
    dataset = training.Scheduled([[0, 4], [7, 0]], views / "full.parquet", views / "masked.parquet")
    assert [pair.example_id for pair in (dataset[i] for i in range(4))] == [
        "e0",
        "e5",
        "e8",
        "e0",
    ]  # e4 is a test example
    assert all(pair.masked["example_id"] == pair.example_id for pair in (dataset[i] for i in range(4)))
    assert dataset.num_examples == 3


def test_the_same_run_gives_the_same_adapter_and_curves(views: Path):
    one, other = train(views, "one", FOCUSED), train(views, "other", FOCUSED)
    assert (one / "adapter_model.safetensors").read_bytes() == (other / "adapter_model.safetensors").read_bytes()
    for curve in (views / "one-curves/plots/metrics/train").glob("*.tsv"):
        assert curve.read_bytes() == (views / "other-curves/plots/metrics/train" / curve.name).read_bytes()


def test_weight_zero_with_the_full_view_alone_is_bitwise_the_vanilla_adapter(views: Path):
    focused = train(views, "focused", FOCUSED._replace(masked=0.0, contrastive=0.0))
    vanilla = train(views, "vanilla", focus.VANILLA)
    assert (focused / "adapter_model.safetensors").read_bytes() == (vanilla / "adapter_model.safetensors").read_bytes()
    whole = adapter(train(views, "whole", FOCUSED))
    assert any(not torch.equal(tensor, whole[name]) for name, tensor in adapter(vanilla).items())


def test_training_moves_every_trainable_parameter_and_lowers_the_loss(views: Path):
    folder = train(views, "focused", FOCUSED, TRAIN.model_copy(update={"steps": 40}))
    moved = adapter(folder)
    lora_b = [tensor for name, tensor in moved.items() if "lora_B" in name or "embedding_B" in name]
    assert len(lora_b) == 9
    assert all(tensor.abs().max() > 0 for tensor in lora_b)
    assert any((tensor - 1).abs().max() > 1e-3 for name, tensor in moved.items() if "norm" in name)
    curve = (views / "focused-curves/plots/metrics/train/loss.tsv").read_text().splitlines()
    assert curve[0].split("\t") == ["step", "loss"]
    losses = [float(line.split("\t")[1]) for line in curve[1:]]
    assert len(losses) == 20
    assert losses[-1] < losses[0]
    assert {path.stem for path in (views / "focused-curves/plots/metrics/train").glob("*.tsv")} == set(training.CURVES)


def test_the_adapter_loads_with_plain_peft_in_a_fresh_process(views: Path):
    """The same logits to the last bit, from files alone."""
    base = views / "base"
    tiny.network().save_pretrained(base)
    folder = train(views, "focused", FOCUSED)
    ids = list(range(4, 30))
    program = (
        "import json, sys, torch\n"
        "from peft import PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        "network = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(sys.argv[1]), sys.argv[2]).eval()\n"
        "print(json.dumps(network(input_ids=torch.tensor([json.loads(sys.argv[3])])).logits[0, -1].tolist()))\n"
    )
    command = [sys.executable, "-c", program, str(base), str(folder), json.dumps(ids)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    here = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(folder)).eval()
    logits = here(input_ids=torch.tensor([ids])).logits[0, -1]
    assert json.loads(output) == logits.tolist()
    plain = AutoModelForCausalLM.from_pretrained(base).eval()(input_ids=torch.tensor([ids])).logits[0, -1]
    assert (plain - logits).abs().max() > 1e-3


def test_a_loss_that_is_not_finite_stops_and_names_the_examples(views: Path):
    broken = FOCUSED._replace(full=float("inf"))
    with pytest.raises(NumericError, match=r"step 1 with examples e\d, e\d, e\d; lower train.learning_rate"):
        train(views, "broken", broken)


def test_context_keys_are_gold_documents_or_whole_contexts(views: Path):
    assert training.context_keys(views / "full.parquet") == [f"d{number}" for number in range(9) if number != 4]
    assert np.array_equal(np.unique(training.context_keys(views / "full.parquet")).size, 8)
