"""The merged model in a fresh process, what is refused, and what a killed merge leaves."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from pipeline.common import base_card, files, tables
from pipeline.model import loading
from pipeline.runtime import methods
from pipeline.runtime.errors import ArtifactError, ConfigError, NumericError, ResourceError
from pipeline.stages import base
from pipeline.tools import merge
from pipeline.training import model_card
from tests.conftest import ROOT
from tests.model import test_loading
from tests.model.test_loading import loaded, logits, make_project, prompt, tie

OUT = Path("models/merged-focused")
PROGRAM = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
network = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval()
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
logits = network(input_ids=torch.tensor(json.loads(sys.argv[2]))).logits[0]
answer = network.generate(torch.tensor(json.loads(sys.argv[2])), max_new_tokens=30, do_sample=False)
config, generation = network.config, network.generation_config
print(json.dumps({
    "kind": type(network).__name__, "logits": logits.tolist(), "answer": answer[0].tolist(),
    "rows": network.get_input_embeddings().weight.shape[0],
    "types": sorted({str(p.dtype) for p in network.parameters()}),
    "tied": config.tie_word_embeddings, "window": config.sliding_window,
    "vocabulary": [config.vocab_size, len(tokenizer)],
    "pad": [config.pad_token_id, generation.pad_token_id, tokenizer.pad_token_id],
    "eos": [config.eos_token_id, generation.eos_token_id, tokenizer.eos_token_id],
    "mask": [config.mask_token_id, tokenizer.mask_token_id], "suppressed": generation.suppress_tokens,
}))
"""


def trained(embedding: str = "lora") -> Any:
    """An adapter as `test_loading.trained` makes it, with the record that stage train leaves beside it."""
    adapted = test_loading.trained(embedding)
    made = model_card.record("focused", {"lora": {"embedding": embedding}}, {"full views": "ab" * 32})
    part = {"trained": 1, "of": 2, "modules": [], "parameters": 3}
    files.write_json(
        base_card.MODELS / "focused" / loading.TRAINED, made | dict.fromkeys(("attention", "norms", "embedding"), part)
    )
    return adapted


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The shipped base and an adapter over it."""
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    base.main()
    trained()
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["merge", *(arguments or ("focused", "--out", str(OUT)))])
    merge.main()


def fresh(folder: Path = OUT) -> dict[str, Any]:
    """What a process that knows nothing of us and of PEFT finds in the folder."""
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(folder), json.dumps(prompt().tolist())]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def umask() -> int:
    os.umask(found := os.umask(0o022))
    return found


def narrow(folder: Path, num_rows: int) -> None:
    """Take the last rows of the vocabulary, and <mask> and <pad> with them, from the base in the folder."""
    tensors = load_file(folder / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        if name in tensors:
            tensors[name] = tensors[name][:num_rows].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"vocab_size": num_rows, "pad_token_id": None}))


@pytest.mark.parametrize(
    ("embedding", "tied"),
    [("lora", False), ("lora", True), ("mask_token", False), ("mask_token", True), ("full", True)],
)
def test_a_fresh_process_finds_the_adapters_logits(tmp_path, monkeypatch, capsys, embedding, tied):
    """Over a base that has no rows for some of the tokenizer's tokens, so that the vocabulary grows."""
    make_project(tmp_path, sha256=None)
    monkeypatch.chdir(tmp_path)
    if tied:
        tie(Path("models/tiny-base"))
    narrow(Path("models/tiny-base"), 2400)
    # Of a real base only <mask> and <pad> may lack rows; here more ids do, so that a mistake shows in the logits.
    monkeypatch.setattr(base, "_require_rows", lambda *_: None)
    base.main()
    adapted = trained(embedding)
    run(monkeypatch)
    found, card = fresh(), base_card.read_card()
    torch.testing.assert_close(torch.tensor(found["logits"]), logits(adapted)[0], rtol=0, atol=1e-4)
    assert (logits(loading.load_method("base", merge.config.load("base").model)) - logits(adapted)).abs().max() > 0.1
    assert found["kind"] == "MistralForCausalLM"
    assert found["rows"] == card.vocab_size
    assert found["vocabulary"] == [card.vocab_size] * 2 == [2473] * 2
    assert found["pad"] == [card.pad_id] * 3
    assert found["eos"] == [card.eos_id] * 3
    assert found["mask"] == [card.mask_id] * 2
    assert found["tied"] == (tied and embedding in ("mask_token", "none"))
    assert not {card.mask_id, card.pad_id} & set(found["answer"][prompt().shape[1] : -1])
    assert found["suppressed"] == sorted((card.mask_id, card.pad_id))
    printed = capsys.readouterr().out
    assert "logits at 64 positions of 1 prompts (0 from data/views/full.parquet)" in printed
    assert "; next: AutoModelForCausalLM.from_pretrained('models/merged-focused') or `vllm serve " in printed
    text = (OUT / "README.md").read_text()
    assert "library_name: transformers" in text and "\nResults" not in text
    assert "None are given: the model has not been evaluated." in text
    assert json.loads((OUT / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert {path.stat().st_mode & 0o777 for path in OUT.iterdir()} == {0o666 & ~umask()}


def test_a_bf16_base_is_merged_in_fp32_and_rounded_once(tmp_path, monkeypatch, capsys):
    make_project(tmp_path, dtype="bfloat16", sliding_window=32)
    monkeypatch.chdir(tmp_path)
    base.main()
    trained()
    run(monkeypatch)
    assert "the likeliest token is the same at" in capsys.readouterr().out
    found = fresh()
    assert found["types"] == ["torch.bfloat16"]
    assert found["window"] == 32
    adapted = loaded()
    evaluated, exact = logits(adapted)[0].float(), logits(adapted.float())[0]
    own, difference = (evaluated - exact).abs().max(), (torch.tensor(found["logits"]) - exact).abs().max()
    assert merge.tolerance([evaluated], [exact]) == pytest.approx(3 * float(own))
    assert merge.tolerance([exact], [exact]) == pytest.approx(1e-4 * float(exact.abs().max()))
    assert merge.tolerance([exact / 1000], [exact / 1000]) == 1e-4
    assert 0 < difference <= 3 * own
    assert (logits(loaded("base"))[0].float() - exact).abs().max() > 3 * own
    merged = merge.lora.merge(adapted)
    for name, tensor in AutoModelForCausalLM.from_pretrained(OUT).state_dict().items():
        assert torch.equal(tensor, merged.state_dict()[name].to(torch.bfloat16)), name


def test_prompts_are_those_of_the_data_where_they_were_made_with_this_tokenizer(project, monkeypatch, capsys):
    ids = [0, *range(50, 750)]
    rows = [
        {
            "example_id": f"e{number}", "question_id": "q", "split": "test", "num_documents": 1, "gold_position": 0,
            "document_ids": ["d"], "context_key": "d", "input_ids": ids, "chunk_ids": ["d#0"], "chunk_starts": [1],
            "chunk_ends": [90], "question_start": 90, "prompt_end": 100 if number else 700,
        }
        for number in range(9)
    ]  # fmt: skip
    tables.write(tables.FULL_VIEWS, rows, {"tokenizer_sha256": base_card.read_card().tokenizer_sha256})
    run(monkeypatch)
    assert f"logits at {64 + 512 + 3 * 100} positions of 5 prompts (4 from" in capsys.readouterr().out
    tables.write(tables.FULL_VIEWS, rows, {"tokenizer_sha256": "0" * 64})
    run(monkeypatch, "focused", "--out", "elsewhere/merged")
    assert "logits at 64 positions of 1 prompts (0 from" in capsys.readouterr().out
    assert (Path("elsewhere/merged") / "model.safetensors").read_bytes() == (OUT / "model.safetensors").read_bytes()


def test_what_stands_there_is_not_overwritten_but_an_empty_folder_is_filled(project, monkeypatch):
    OUT.mkdir()
    run(monkeypatch)
    before = {path.name: path.read_bytes() for path in OUT.iterdir()}
    monkeypatch.setattr(loading, "load_method", None)  # it is not even asked for
    for taken in (str(OUT), "params.yaml"):
        with pytest.raises(ConfigError, match=f"{taken}: there is something already, and it is not overwritten"):
            run(monkeypatch, "focused", "--out", taken)
    assert {path.name: path.read_bytes() for path in OUT.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("base", "--out", "x"), "argument method: 'base' is not known; choose from vanilla, focused, guided; see"),
        (("focussed", "--out", "x"), r"'focussed' is not known \(did you mean focused\?\)"),
        (("focused",), "arguments are required: --out; see `python -m pipeline.tools.merge --help`"),
        (("focused", "--out", "x", "--fast"), "unrecognized arguments: --fast"),
    ],
)
def test_what_is_not_understood_is_refused(monkeypatch, arguments, message):
    with pytest.raises(ConfigError, match=message):
        run(monkeypatch, *arguments)


def test_the_help_names_every_method_that_has_an_adapter(monkeypatch, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(monkeypatch, "--help")
    assert ", ".join(methods.TRAINED) in " ".join(capsys.readouterr().out.split())


def test_a_quantized_base_is_refused_before_it_is_loaded(project, monkeypatch):
    path = Path("models/tiny-base/config.json")
    settings = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": settings}))
    monkeypatch.setattr(loading, "load_method", None)
    with pytest.raises(
        ArtifactError, match=r"models/tiny-base: its weights are quantized, .* use the adapter as it is"
    ):
        run(monkeypatch)


def test_a_disk_without_room_is_refused_before_anything_is_loaded(project, monkeypatch):
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4_000_000))
    monkeypatch.setattr(loading, "load_method", None)
    with pytest.raises(ResourceError, match=r"merged: [\d,]+ bytes are needed, 4,000,000 are free; make room"):
        run(monkeypatch, "focused", "--out", "new/folder/merged")


def test_an_adapter_of_an_earlier_version_is_one_line(project, monkeypatch):
    path = base_card.MODELS / "focused" / loading.TRAINED
    files.write_json(path, {"norms": {}})
    monkeypatch.setattr(loading, "load_method", None)
    with pytest.raises(ArtifactError, match=r"trained\.json: has no method, as adapters of an earlier version; run"):
        run(monkeypatch)


def test_a_missing_adapter_is_one_line(project, monkeypatch):
    with pytest.raises(ArtifactError, match="models/vanilla: no adapter; run `dvc repro train@vanilla` first"):
        run(monkeypatch, "vanilla", "--out", "x")


@pytest.mark.parametrize("damage", ["lost", "nan"])
def test_logits_that_are_not_the_adapters_leave_nothing(project, monkeypatch, damage):
    if damage == "nan":
        path = base_card.MODELS / "focused" / loading.WEIGHTS
        tensors = load_file(path)
        tensors[min(tensors)][0] = float("nan")
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        monkeypatch.setattr(merge.lora, "merge", lambda adapted: adapted.unload())
    with pytest.raises(NumericError, match=r"differ by .* from the adapter's, allowed is 0\.00\d+; nothing was kept"):
        run(monkeypatch)
    assert sorted(path.name for path in Path("models").iterdir()) == ["base", "focused", "tiny-base"]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_merge_leaves_no_folder_and_the_next_one_cleans_up(project, monkeypatch, how):
    """Killed when all is written and nothing is in its place."""
    program = (
        "import sys, time\n"
        "from pipeline.common import files\n"
        "from pipeline.tools import merge\n"
        "from pipeline.runtime.main import run\n"
        "files.put = lambda *paths: (print('written', flush=True), time.sleep(60))\n"
        f"sys.argv = ['merge', 'focused', '--out', {str(OUT)!r}]\n"
        "run(merge.main)\n"
    )
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == "written\n"
        os.kill(process.pid, how)
        assert process.wait() == (130 if how == signal.SIGTERM else -signal.SIGKILL)
    left = {path.name for path in Path("models").iterdir()} - {"base", "focused", "tiny-base"}
    assert len(left) == (how == signal.SIGKILL)
    assert all(name.startswith(".merged-focused.unfinished-") for name in left)
    Path("models/.merged-focused.mine").mkdir()  # not ours to remove
    run(monkeypatch)
    names = {path.name for path in Path("models").iterdir()}
    assert names == {"base", "focused", "tiny-base", OUT.name, ".merged-focused.mine"}
    assert AutoModelForCausalLM.from_pretrained(OUT).dtype == torch.float32


def test_make_merge_and_git_agree_on_the_folder():
    done = subprocess.run(
        ["make", "-n", "merge", "METHOD=vanilla"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert 'python -m pipeline.tools.merge "vanilla" --out "models/merged-vanilla"' in done.stdout
    assert (
        subprocess.run(["git", "check-ignore", "--quiet", "models/merged-vanilla/config.json"], cwd=ROOT).returncode
        == 0
    )
