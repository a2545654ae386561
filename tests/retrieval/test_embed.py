"""The encoder runs only on texts that the cache lacks."""

from contextlib import closing

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.common.device import device
from pipeline.retrieval import embed, embedding_cache, encoder
from pipeline.runtime.errors import ConfigError, NumericError
from tests import tiny_bert

TEXTS = ["abc", "", "a longer text, 12 words or so.", "abc def", "x" * 50]


@pytest.fixture
def other(tmp_path):
    with closing(embedding_cache.Cache(tmp_path / "other.sqlite")) as opened:
        yield opened


def embedded(folder, cache, texts=TEXTS, **changes):
    return embed.embed(encoder.TextEncoder(tiny_bert.retriever(folder, **changes), device()), cache, texts, "chunks")


def test_each_text_is_encoded_once_ever_and_comes_back_to_the_last_bit(folder, cache):
    first = embedded(folder, cache)
    again = embedded(folder, cache, TEXTS[::-1])
    assert (first.num_encoded, first.num_cached) == (5, 0)
    assert (again.num_encoded, again.num_cached) == (0, 5)
    assert (again.embedding_ND[::-1] == first.embedding_ND).all()
    assert again.num_tokens_N[::-1].tolist() == first.num_tokens_N.tolist()


def test_half_a_cache_gives_the_same_bits_as_none(folder, cache, other):
    whole = embedded(folder, cache).embedding_ND
    embedded(folder, other, TEXTS[1:3])
    found = embedded(folder, other)
    assert (found.num_encoded, found.num_cached) == (3, 2)
    assert (found.embedding_ND == whole).all()


def test_slabs_bound_memory_and_change_nothing(folder, cache, other, monkeypatch):
    whole = embedded(folder, cache).embedding_ND
    monkeypatch.setattr(encoder, "TEXTS_PER_SLAB", 2)
    assert (embedded(folder, other).embedding_ND == whole).all()


def test_tokens_are_counted_before_truncation(folder, cache):
    found = embedded(folder, cache, max_tokens=32)
    assert found.num_tokens_N.tolist() == [5, 2, 26, 8, 52]


@pytest.mark.parametrize("change", [{"max_tokens": 16}, {"pooling": "cls"}])
def test_what_changes_an_embedding_changes_its_key(folder, cache, change):
    before = embedded(folder, cache)
    after = embedded(folder, cache, **change)
    assert after.num_cached == 0
    assert not np.array_equal(before.embedding_ND, after.embedding_ND)


def test_similarity_and_the_name_of_the_source_change_no_embedding(folder, cache, monkeypatch):
    embedded(folder, cache)
    monkeypatch.chdir(folder.parent)
    assert embedded(folder, cache, similarity="cosine", source=folder.name).num_encoded == 0


def test_bfloat16_is_close_and_kept_apart(folder, cache, monkeypatch):
    monkeypatch.setattr(encoder, "number_format", lambda on: torch.float32)
    exact = embedded(folder, cache)
    monkeypatch.setattr(encoder, "number_format", lambda on: torch.bfloat16)
    rough = embedded(folder, cache)
    assert rough.num_cached == 0
    assert rough.embedding_ND == pytest.approx(exact.embedding_ND, abs=0.1)
    assert not np.array_equal(rough.embedding_ND, exact.embedding_ND)


def test_the_number_format_of_the_cpu_is_what_it_can_multiply():
    able = torch.cpu.get_capabilities()
    native = able.get("avx512_bf16") or able.get("amx_bf16")
    assert encoder.number_format(torch.device("cpu")) == (torch.bfloat16 if native else torch.float32)


def test_an_embedding_that_is_no_number_stops_the_run_and_is_not_kept(folder, cache, tmp_path):
    tiny_bert.save(tmp_path / "broken")
    weights = load_file(tmp_path / "broken/model.safetensors")
    weights["encoder.layer.0.output.dense.bias"][3] = float("nan")
    save_file(weights, tmp_path / "broken/model.safetensors", metadata={"format": "pt"})
    for _ in range(2):
        with pytest.raises(NumericError, match=r"broken.*NaN"):
            embedded(tmp_path / "broken", cache)


def test_the_device_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("FOCUS_DEVICE", "cpu")
    assert device() == torch.device("cpu")
    monkeypatch.setenv("FOCUS_DEVICE", "abacus")
    with pytest.raises(ConfigError, match=r"FOCUS_DEVICE is 'abacus'; available here: cpu"):
        device()
    monkeypatch.setenv("FOCUS_DEVICE", "mps")
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"FOCUS_DEVICE is 'mps'; available here: cpu"):
        device()
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: True)
    assert device() == torch.device("mps")
    monkeypatch.delenv("FOCUS_DEVICE")
    assert device().type != "mps"
