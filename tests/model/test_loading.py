"""Adapters on disk over the shipped base: what lies beside them, what a fresh load gives, what is refused."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.common import base_card, files
from pipeline.model import loading, lora
from pipeline.runtime import config
from pipeline.runtime.errors import ArtifactError, ConfigError, ResourceError
from pipeline.stages import base
from tests.conftest import ROOT

MODES = ("lora", "mask_token", "full", "none")


def make_project(folder: Path, **changes: Any) -> None:
    """The shipped base after stage base, in the working directory; `changes` are settings of the model."""
    shutil.copytree(ROOT / "conf", folder / "conf")
    shutil.copytree(ROOT / "models/tiny-base", folder / "models/tiny-base")
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    params["model"].update(changes)
    yaml.dump(params, folder / "params.yaml")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    make_project(tmp_path)
    monkeypatch.chdir(tmp_path)
    base.main()
    return tmp_path


def tie(folder: Path) -> None:
    """Make the base in the folder one whose lm_head is its embedding."""
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"tie_word_embeddings": True}))
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def trained(embedding: str = "lora", method: str = "focused", *, scale: float = 0.02) -> PeftModel:
    """An adapter over the project's base that changes what it may, saved as the method's."""
    card = base_card.read_card()
    network = loading.load_base(config.load("base").model, card)
    torch.manual_seed(0)
    adapted = lora.add_adapter(
        network, rank=4, alpha=8, dropout=0.0, embedding=embedding, norms=True, mask_id=card.mask_id
    )
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter += scale * torch.randn_like(parameter)
    loading.save_adapter(adapted, card, base_card.MODELS / method)
    return adapted.eval()


def prompt() -> torch.Tensor:
    """Ids with the row of <mask> among them, shape (1, L)."""
    mask_id = base_card.read_card().mask_id
    return torch.tensor([[0, *range(50, 90), mask_id, mask_id, *range(90, 100)]])


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network(input_ids=prompt()).logits


def loaded(method: str = "focused") -> Any:
    return loading.load_method(method, config.load("base").model)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("embedding", MODES)
def test_a_fresh_load_has_the_same_logits_to_the_last_bit(tmp_path, monkeypatch, embedding, tied):
    make_project(tmp_path, sha256=None)
    monkeypatch.chdir(tmp_path)
    if tied:
        tie(Path("models/tiny-base"))
    base.main()
    before = logits(trained(embedding))
    assert torch.equal(logits(loaded()), before)
    assert (logits(loaded("base")) - before).abs().max() > 1e-2


def test_plain_peft_loads_it_in_a_fresh_process(project):
    wanted = []
    for embedding in MODES:
        wanted += [logits(trained(embedding))[0, -1].tolist()] * 2
        (base_card.MODELS / "focused").rename(base_card.MODELS / embedding)
    program = (
        "import json, sys, warnings, torch\n"
        "from peft import AutoPeftModelForCausalLM, PeftModel\n"
        "from transformers import AutoModelForCausalLM\n"
        "ids = torch.tensor(json.loads(sys.argv[1]))\n"
        "for folder in sys.argv[2:]:\n"
        "    network = AutoModelForCausalLM.from_pretrained('models/tiny-base')\n"
        "    for adapted in (PeftModel.from_pretrained(network, folder),\n"
        "                    AutoPeftModelForCausalLM.from_pretrained(folder)):\n"
        "        print(json.dumps(adapted.eval()(input_ids=ids).logits[0, -1].tolist()))\n"
    )
    folders = [str(base_card.MODELS / embedding) for embedding in MODES]
    command = [sys.executable, "-c", program, json.dumps(prompt().tolist()), *folders]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert [json.loads(line) for line in output.splitlines()] == wanted


@pytest.mark.parametrize("embedding", MODES)
def test_over_a_bf16_base_the_saved_adapter_is_the_one_in_memory_rounded(tmp_path, monkeypatch, embedding):
    make_project(tmp_path, dtype="bfloat16")
    monkeypatch.chdir(tmp_path)
    base.main()
    adapted = trained(embedding)
    saved = load_file(base_card.MODELS / "focused" / loading.WEIGHTS)
    assert {tensor.dtype for tensor in saved.values()} == {torch.bfloat16}
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad:
                rounded = parameter.to(torch.bfloat16)
                assert not torch.equal(rounded.float(), parameter)
                # PEFT computes LoRA in fp32, norms and rows in the base's type, which they are copies of.
                parameter.data = rounded.float() if "lora_" in name else rounded
    assert torch.equal(logits(loaded()), logits(adapted))


def test_beside_the_adapter_lie_its_tokenizer_and_its_card(project):
    trained()
    folder = base_card.MODELS / "focused"
    names = {path.name for path in folder.iterdir()}
    assert names == {path.name for path in base_card.BASE.iterdir()} | {loading.WEIGHTS, loading.CONFIG, "README.md"}
    card = base_card.read_card(folder)
    assert card == base_card.read_card()
    assert card.sha256 == loading.digest(Path("models/tiny-base"))
    assert card.tokenizer_sha256 == hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, len(tokenizer)) == (
        card.mask_id, card.pad_id, card.vocab_size
    )  # fmt: skip


def test_equal_adapters_are_equal_bytes_from_process_to_process(project):
    """Sets, which PEFT's configuration has, come in an order that differs with the hash seed."""
    found = []
    for seed in ("1", "2"):
        program = "from tests.model.test_loading import trained\ntrained()\n"
        environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "PYTHONHASHSEED": seed, "HF_HUB_OFFLINE": "1"}
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, env=environment)
        found.append({path.name: path.read_bytes() for path in (base_card.MODELS / "focused").iterdir()})
        shutil.rmtree(base_card.MODELS / "focused")
    assert found[0] == found[1]


def test_the_configuration_names_the_base_as_the_settings_do(project):
    trained()
    written = files.read_json(base_card.MODELS / "focused" / loading.CONFIG, "train")
    assert (written["base_model_name_or_path"], written["revision"]) == ("models/tiny-base", None)


def test_no_adapter_is_saved_under_a_tokenizer_that_is_not_the_cards(project):
    card = base_card.read_card()
    path = base_card.BASE / "tokenizer.json"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ArtifactError, match=f"sha256 [0-9a-f]{{64}}, the card says {card.tokenizer_sha256}"):
        trained()


@pytest.mark.parametrize("field", asdict(base_card.BaseCard("", None, "", 0, "", 0, [0], 0, 0)))
def test_an_adapter_of_another_base_is_refused_with_both_values(project, monkeypatch, field):
    trained()
    card = asdict(base_card.read_card())
    is_text = isinstance(card[field], str) or (card[field] is None and field != "sliding_window")
    other = [77] if field == "eos_ids" else "other" if is_text else 77
    base_card.write_card(base_card.BaseCard(**card | {field: other}), base_card.MODELS / "focused")
    monkeypatch.setattr(loading, "load_base", None)  # it is not even asked for
    with pytest.raises(ArtifactError) as error:
        loaded()
    message = f"its base has {field} {other}, models/base has {card[field]}; run `dvc repro train@focused`"
    assert str(error.value) == f"models/focused: {message}"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (loading.WEIGHTS, None, "models/focused: no adapter; run `dvc repro train@focused` first"),
        (
            loading.WEIGHTS,
            "half",
            "models/focused/adapter_model.safetensors: no whole safetensors file (.*); run `dvc",
        ),
        (loading.WEIGHTS, "", "models/focused/adapter_model.safetensors: no whole safetensors file (.*); run `dvc"),
        (loading.CONFIG, None, "adapter_config.json: no such file; run `dvc repro train@focused` first"),
        (
            loading.CONFIG,
            "half",
            "adapter_config.json: not valid JSON .*; delete it and run `dvc repro train@focused`",
        ),
        (loading.CONFIG, "[]", "adapter_config.json: no configuration of LoRA; run `dvc repro -f train@focused`"),
        (loading.CONFIG, '{"peft_type": "IA3"}', "adapter_config.json: no configuration of LoRA"),
        (
            "tokenizer.json",
            None,
            "tokenizer has sha256 of no file, models/base has .*; run `dvc repro -f train@focused`",
        ),
        (
            "tokenizer.json",
            "half",
            "tokenizer has sha256 [0-9a-f]{64}, models/base has [0-9a-f]{64}; run `dvc repro -f",
        ),
        (base_card.CARD, None, "models/focused/base.json: no such file; run `dvc repro train@focused` first"),
        (base_card.CARD, '{"source": "x"}', "models/focused/base.json: .* run `dvc repro -f train@focused`"),
    ],
)
def test_a_damaged_adapter_is_one_line_and_no_base_is_loaded_for_it(project, monkeypatch, name, content, message):
    trained()
    path = base_card.MODELS / "focused" / name
    whole = path.read_bytes()
    if content is None:
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if content == "half" else content.encode())
    monkeypatch.setattr(loading, "load_base", None)
    with pytest.raises(ArtifactError, match=message) as error:
        loaded()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"r": 3}, r"cannot be loaded \(.*size mismatch.*\); run `dvc repro -f train@focused`"),
        ({"r": "x"}, r"cannot be loaded"),
        ({"target_modules": ["q_proj"]}, "do not belong together, they differ in 21 tensors, base_model"),
        ({"modules_to_save": None}, "do not belong together, they differ in 7 tensors"),
        ({"modules_to_save": ["lm_head"]}, "cannot be loaded"),
        ({"target_modules": ["nothing"]}, "cannot be loaded"),
    ],
)
def test_weights_and_configuration_that_do_not_fit_are_one_line(project, change, message):
    trained()
    path = base_card.MODELS / "focused" / loading.CONFIG
    files.write_json(path, files.read_json(path, "train") | change)
    with pytest.raises(ArtifactError, match=message) as error:
        loaded()
    assert "\n" not in str(error.value)


def test_weights_that_lack_a_tensor_are_refused_not_half_loaded(project):
    """PEFT only warns, and goes on with a matrix of zeros."""
    trained()
    path = base_card.MODELS / "focused" / loading.WEIGHTS
    tensors = load_file(path)
    name = min(name for name in tensors if "lora_B" in name)
    del tensors[name]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        ArtifactError, match=f"they differ in 1 tensors, {name} among them; run `dvc repro -f train@focu"
    ):
        loaded()


O_PROJ = "model.layers.1.self_attn.o_proj.weight"


@pytest.mark.parametrize("wrong", ["missing", "of another shape"])
def test_weights_that_a_base_lacks_are_not_drawn_at_random(tmp_path, monkeypatch, capfd, wrong):
    make_project(tmp_path, sha256=None)
    monkeypatch.chdir(tmp_path)
    path = Path("models/tiny-base/model.safetensors")
    tensors = load_file(path)
    del tensors[O_PROJ]
    if wrong == "of another shape":
        tensors[O_PROJ] = torch.zeros(3, 5)
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ArtifactError) as caught:
        base.main()
    assert str(caught.value) == (
        "models/tiny-base: 1 weights that config.json describes are missing or of another shape, first "
        f"{O_PROJ}; restore the files"
    )
    assert capfd.readouterr() == ("", "")
    assert not base_card.BASE.exists()


def one_shard_of_two(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({O_PROJ: tensors[O_PROJ]}, folder / "model-00001-of-00002.safetensors", metadata={"format": "pt"})
    place_of = {name: f"model-0000{1 if name == O_PROJ else 2}-of-00002.safetensors" for name in tensors}
    index = {"metadata": {"total_size": 1}, "weight_map": place_of}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def shards_without_index(folder: Path) -> None:
    one_shard_of_two(folder)
    (folder / "model.safetensors.index.json").unlink()


def stop_as_text(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"eos_token_id": "</s>"}')


def adapter_alone(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / loading.WEIGHTS)
    (folder / "config.json").rename(folder / loading.CONFIG)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (one_shard_of_two, r"its weights cannot be loaded \(.*model-00002-of-00002.safetensors\); restore the files"),
        (
            shards_without_index,
            r"its weights cannot be loaded \(.*no file named model.safetensors.*\); restore the files",
        ),
        (stop_as_text, "generation_config.json has '</s>' as eos_token_id; expected a token's number"),
        (adapter_alone, "this is a PEFT adapter, not a base; merge it into its base"),
    ],
)
def test_a_base_that_is_not_whole_is_one_line(tmp_path, monkeypatch, damage, message):
    make_project(tmp_path, sha256=None)
    monkeypatch.chdir(tmp_path)
    damage(Path("models/tiny-base"))
    with pytest.raises(ArtifactError, match=f"^models/tiny-base: {message}") as caught:
        base.main()
    assert "\n" not in str(caught.value)
    assert not base_card.BASE.exists()


def test_quantized_weights_without_their_package_are_one_line(tmp_path, monkeypatch):
    """Stage base does not load them, because that may need a GPU."""
    make_project(tmp_path, sha256=None)
    monkeypatch.chdir(tmp_path)
    path = Path("models/tiny-base/config.json")
    quantized = {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantized))
    base.main()
    with pytest.raises(ResourceError, match=r"^models/tiny-base: .* requires optimum.*; install that, or choose"):
        loaded("base")


def test_the_base_itself_needs_no_adapter(project):
    assert torch.equal(logits(loaded("base")), logits(AutoModelForCausalLM.from_pretrained("models/tiny-base")))


def test_the_attention_comes_from_the_environment(project, monkeypatch):
    def load():
        return loading.load_base(config.load("base").model, base_card.read_card())

    own = logits(load())
    monkeypatch.setenv("FOCUS_ATTENTION", "eager")
    network = load()
    assert network.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(network), own, rtol=1e-4, atol=1e-4)
    monkeypatch.setenv("FOCUS_ATTENTION", "flash_attention_2")
    with pytest.raises(ConfigError, match="FOCUS_ATTENTION is 'flash_attention_2'; only sdpa and eager take the masks"):
        load()
