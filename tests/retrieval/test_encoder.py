"""The encoder: its batches, pooling, batch invariance, and agreement with the official Contriever class."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertModel

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


def test_another_architecture_is_refused_and_sent_to_the_kind_that_takes_it(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "roberta"}))
    message = refusal(ArtifactError, load, folder)
    assert "'roberta'" in message and "sentence_transformer" in message


@pytest.mark.parametrize("damage", ["{", "[]", None])
def test_a_broken_configuration_is_named(folder, damage):
    (folder / "config.json").unlink() if damage is None else (folder / "config.json").write_text(damage)
    assert str(folder) in refusal(ArtifactError, load, folder)


def test_more_tokens_than_the_encoder_has_positions_are_refused(folder):
    loaded = encoder.TextEncoder(tiny_bert.retriever(folder, max_tokens=65), CPU)
    message = refusal(ConfigError, lambda: loaded.network)
    assert "65" in message and "at most 64" in message


def test_code_beside_the_weights_is_never_run(folder, tmp_path):
    canary = tmp_path / "canary"
    (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "evil.Evil"}}))
    _, network = load(folder)
    assert type(network).__name__ == "BertModel"
    assert not canary.exists()


@pytest.mark.parametrize("change", ["missing", "of another shape"])
def test_weights_that_are_missing_are_not_made_up(folder, change):
    weights, name = load_file(folder / "model.safetensors"), "encoder.layer.1.output.dense.weight"
    del weights[name]
    if change == "of another shape":
        weights[name] = torch.zeros(3, 5)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert f"1 weights that config.json describes are missing or of another shape, first {name}; restore" in refusal(
        ArtifactError, load, folder
    )


def without_vocabulary(folder):
    for path in (*folder.glob("tokenizer*"), *folder.glob("vocab*")):
        path.unlink()


def with_fewer_embeddings(folder):
    weights, name = load_file(folder / "model.safetensors"), "embeddings.word_embeddings.weight"
    weights[name] = weights[name][:20].clone()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 20}))


WRONG_VOCABULARIES = [
    (without_vocabulary, "its tokenizer knows no word; restore tokenizer.json"),
    (with_fewer_embeddings, f"its tokenizer has {len(tiny_bert.VOCABULARY)} tokens, and its network embeddings of 20"),
]


@pytest.mark.parametrize(("damage", "message"), WRONG_VOCABULARIES)
def test_a_tokenizer_that_does_not_belong_to_the_network_is_refused(folder, damage, message):
    damage(folder)
    loaded = encoder.TextEncoder(tiny_bert.retriever(folder), CPU)
    assert f"{folder}: {message}" in refusal(ArtifactError, lambda: loaded.tokenizer)


def test_truncated_weights_are_named(folder):
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert str(folder) in refusal(ArtifactError, load, folder)


def embed(folder, texts, pooling="mean", max_tokens=64, sequence_tokens=256):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "SEQUENCE_TOKENS", {"cpu": sequence_tokens})
        loaded = encoder.TextEncoder(tiny_bert.retriever(folder, pooling=pooling, max_tokens=max_tokens), CPU)
    parts = [(batch.indices, loaded.embed(batch)) for batch in loaded.batches(texts, "chunks")]
    found = np.concatenate([embedding_BD for _, embedding_BD in parts])
    return found[np.argsort([index for indices, _ in parts for index in indices])]


@given(st.lists(st.integers(2, 64), max_size=40), st.integers(64, 300))
def test_sequences_hold_every_text_once_and_are_filled(lengths, num_tokens):
    found = list(encoder.filled(lengths, num_tokens))
    assert sorted(index for indices in found for index in indices) == list(range(len(lengths)))
    held = [[lengths[index] for index in indices] for indices in found]
    assert all(row == sorted(row, reverse=True) and 0 < sum(row) <= num_tokens for row in held)
    # What is left out would not fit, so two neighbours never have room in one sequence.
    assert all(sum(row) + min(after) > num_tokens for row, after in pairwise(held))


def test_a_truncated_text_keeps_its_separator():
    assert encoder.truncate([2, 7, 8, 9, 3], 4) == [2, 7, 8, 3]
    assert encoder.truncate([2, 7, 3], 4) == [2, 7, 3]


def test_an_embedding_is_the_mean_of_the_states_of_all_tokens_of_the_text_alone(saved):
    tokenizer = load(saved)[0]
    network = BertModel.from_pretrained(saved, add_pooling_layer=False)
    inputs = tokenizer(["abc, d.", "a much longer text 123"], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = network(**inputs).last_hidden_state
    keep = inputs["attention_mask"].bool()
    expected = [row[kept].mean(0).tolist() for row, kept in zip(states, keep, strict=True)]
    assert embed(saved, ["abc, d.", "a much longer text 123"]) == pytest.approx(np.array(expected), abs=1e-5)
    first = states[:, 0].numpy()
    assert embed(saved, ["abc, d.", "a much longer text 123"], "cls") == pytest.approx(first, abs=1e-5)


def test_an_embedding_is_the_same_bits_whatever_stands_beside_it(saved):
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(tiny_bert.LETTERS + " "), size)) for size in generator.integers(0, 90, 40)]
    whole = embed(saved, texts)
    for size in (1, 2, 3, 17):
        chosen = generator.permutation(len(texts))[:size]
        assert (embed(saved, [texts[place] for place in chosen]) == whole[chosen]).all()


@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_texts_of_one_length_may_be_attended_to_at_once(number_format):
    """As on a GPU: one call for a run of texts gives what a call for each gives."""
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 40, 8, dtype=number_format).unbind()
    alone, _ = encoder.attend(None, query, key, value, None, runs=[(0, 7, 1), (7, 14, 1), (14, 21, 1), (21, 30, 1)])
    at_once, _ = encoder.attend(None, query, key, value, None, runs=[(0, 21, 3), (21, 30, 1)])
    assert alone.shape == (1, 40, 2, 8) and not alone[0, 30:].any()
    assert torch.allclose(alone, at_once, atol=1e-6 if number_format == torch.float32 else 1e-2)
    scores = query[0, :, 7:14].float() @ key[0, :, 7:14].float().transpose(1, 2) / 8**0.5
    expected = (scores.softmax(dim=-1) @ value[0, :, 7:14].float()).transpose(0, 1)
    assert torch.allclose(alone[0, 7:14].float(), expected, atol=1e-5 if number_format == torch.float32 else 3e-2)


def test_no_texts_make_no_batches(saved):
    assert list(encoder.TextEncoder(tiny_bert.retriever(saved), CPU).batches([], "chunks")) == []


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
@pytest.mark.parametrize("sequence_tokens", [1, 4096])
def test_embeddings_agree_with_the_official_encoder(golden, name, texts, max_tokens, pooling, sequence_tokens):
    folder, inputs, expected = golden
    found = embed(folder, texts(inputs), pooling, max_tokens, sequence_tokens)
    apart = np.linalg.norm(found - expected[name], axis=1) / np.linalg.norm(expected[name], axis=1)
    assert apart.max() <= 1e-6


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
        ranks = retrievers.ranks(scores, "encoder", "e", [str(n) for n in range(len(scores))])
        assert np.argsort(ranks).tolist() == expected["ranking"][row].tolist()
    cosine = retrievers.DenseScorer(inputs["queries"], questions, chunks, "cosine")
    expected_cosine = expected["query_emb_normalized"] @ expected["passage_emb_normalized"].T
    assert cosine.corpus_scores(inputs["queries"]) == pytest.approx(expected_cosine, abs=1e-4)
