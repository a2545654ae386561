"""The encoder: batches, pooling, batch invariance, and agreement with the official Contriever class."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.retrieval import encoder, retrievers
from pipeline.retrieval.embed import load
from tests import tiny_bert

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load(tiny_bert.save(tmp_path_factory.mktemp("bert")), CPU, torch.float32)


def embed(loaded, texts, pooling="mean", max_tokens=64, batch_tokens=256):
    network, tokenizer = loaded
    ids = encoder.tokenize(tokenizer, texts)
    found = np.full((len(texts), network.config.hidden_size), np.nan, dtype=np.float32)
    planned = encoder.plan(ids, max_tokens=max_tokens, batch_tokens=batch_tokens)
    for places, embedding_BD in encoder.embed_all(network, planned, pad_id=tokenizer.pad_token_id, pooling=pooling):
        found[places] = embedding_BD.numpy()
    return found


@given(st.lists(st.integers(2, 64), max_size=40), st.integers(1, 300))
def test_batches_hold_every_text_once_in_one_shape_per_length(lengths, batch_tokens):
    found = list(encoder.batches(lengths, batch_tokens, max_tokens=60))
    assert sorted(index for batch in found for index in batch.indices) == list(range(len(lengths)))
    shapes = {(batch.num_tokens, batch.num_rows) for batch in found}
    assert len({num_tokens for num_tokens, _ in shapes}) == len(shapes)
    for batch in found:
        assert 1 <= len(batch.indices) <= batch.num_rows
        assert batch.num_rows == 1 or batch.num_rows * batch.num_tokens <= batch_tokens
        for index in batch.indices:
            shortest = min(lengths[index], 60)
            assert shortest <= batch.num_tokens < shortest + encoder.LENGTH_STEP
    assert [batch.num_tokens for batch in found] == sorted((batch.num_tokens for batch in found), reverse=True)


def test_a_cut_text_keeps_its_separator():
    assert encoder.cut([2, 7, 8, 9, 3], 4) == [2, 7, 8, 3]
    assert encoder.cut([2, 7, 3], 4) == [2, 7, 3]


def test_mean_pooling_leaves_padding_out_and_cls_takes_the_first_token():
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])
    mask = torch.tensor([[True, True, False]])
    assert encoder.pool(hidden, mask, "mean").tolist() == [[2.0, 4.0]]
    assert encoder.pool(hidden, mask, "cls").tolist() == [[1.0, 2.0]]
    assert encoder.pool(hidden.bfloat16(), mask, "mean").dtype == torch.float32


def test_an_embedding_is_the_mean_of_the_states_of_all_tokens_of_the_text_alone(tiny):
    network, tokenizer = tiny
    inputs = tokenizer(["abc, d.", "a much longer text 123"], return_tensors="pt", padding=True)
    with torch.no_grad():
        states = network(**inputs).last_hidden_state
    expected = [row[keep.bool()].mean(0).tolist() for row, keep in zip(states, inputs["attention_mask"], strict=True)]
    found = embed(tiny, ["abc, d.", "a much longer text 123"])
    assert found == pytest.approx(np.array(expected), abs=1e-5)


def test_an_embedding_is_the_same_bits_whatever_stands_beside_it(tiny):
    generator = np.random.default_rng(0)
    texts = ["".join(generator.choice(list(tiny_bert.LETTERS + " "), size)) for size in generator.integers(0, 90, 40)]
    whole = embed(tiny, texts)
    for size in (1, 2, 3, 17):
        chosen = generator.permutation(len(texts))[:size]
        assert (embed(tiny, [texts[place] for place in chosen]) == whole[chosen]).all()


def test_no_texts_make_no_batches(tiny):
    assert embed(tiny, []).shape == (0, 16)


@pytest.fixture(scope="module")
def golden(request):
    shared = request.config.rootpath.parent / "shared"
    if not shared.is_dir():
        pytest.skip("no ../shared beside the repository: golden vectors are not here")
    folder = shared / "golden/contriever"
    inputs = json.loads((folder / "inputs.json").read_text(encoding="utf-8"))
    return load(folder / "model", CPU, torch.float32), inputs, dict(np.load(folder / "expected.npz"))


def passages(inputs, *, with_title=True):
    return [retrievers.chunk_text(p["title"], p["text"], with_title=with_title) for p in inputs["passages"]]


def test_token_ids_are_those_of_the_official_encoder(golden):
    (_, tokenizer), inputs, expected = golden
    assert len(tokenizer) == 1500
    texts = passages(inputs) + inputs["queries"] + inputs["extra"]
    found = [encoder.cut(ids, 512) for ids in encoder.tokenize(tokenizer, texts)]
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
    loaded, inputs, expected = golden
    found = embed(loaded, texts(inputs), pooling, max_tokens, batch_tokens)
    assert found == pytest.approx(expected[name], abs=1e-4, rel=0)


def test_scores_and_rankings_agree_with_the_official_encoder(golden):
    loaded, inputs, expected = golden
    questions, chunks = (
        embed(loaded, inputs["queries"], max_tokens=512),
        embed(loaded, passages(inputs), max_tokens=512),
    )
    dot = retrievers.DenseScorer(inputs["queries"], questions, chunks, "dot")
    rows = np.arange(len(chunks), dtype=np.int32)
    for row, question in enumerate(inputs["queries"]):
        scores = dot.scores(retrievers.Context("e", question, rows, rows < 0))
        assert scores == pytest.approx(expected["scores"][row], abs=1e-4, rel=0)
        assert np.argsort(retrievers.ranks(scores, "encoder", "e")).tolist() == expected["ranking"][row].tolist()
    cosine = retrievers.DenseScorer(inputs["queries"], questions, chunks, "cosine")
    expected_cosine = expected["query_emb_normalized"] @ expected["passage_emb_normalized"].T
    assert cosine.collection_scores(inputs["queries"]) == pytest.approx(expected_cosine, abs=1e-4)
