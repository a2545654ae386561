"""Attention of the last token: the very numbers of transformers' eager maps, whatever the batch, window or adapter."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import attention
from pipeline.model.causal_lm import add_adapter, unwrap
from tests.model import tiny

PROMPTS = [
    [1, 9, 8, 7, 6, 5, 4, 10, 11, 12, 13, 14, 15],
    [1, 20, 21, 22],
    [1, 30],
    [1, 40, 41, 42, 43, 44, 45, 46, 47, 12, 13, 14, 15],
    [7],
]


def adapted(norms: bool = True):
    network = add_adapter(
        tiny.network(), rank=2, alpha=4, dropout=0.0, embedding="lora", norms=norms, mask_id=tiny.MASK
    )
    torch.manual_seed(5)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad and "lora" in name:
            parameter.data = 0.4 * torch.randn_like(parameter)
    return network


def windowed(window: int):
    network = tiny.network()
    network.config.sliding_window = window
    return network


NETWORKS = {
    "plain": tiny.network,
    "adapter": adapted,
    "window 5": lambda: windowed(5),
    "window 99": lambda: windowed(99),
}


def eager_last_row(network, prompt: list[int]) -> np.ndarray:
    """The last row of the full maps: one prompt, no cache, no padding."""
    causal_lm = unwrap(network)
    before = causal_lm.config._attn_implementation
    causal_lm.set_attn_implementation("eager")
    with torch.inference_mode():
        maps = causal_lm(torch.tensor([prompt]), output_attentions=True).attentions
    causal_lm.set_attn_implementation(before)
    return np.stack([map_BHLL[0, :, -1].mean(dim=0).numpy() for map_BHLL in maps])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_rows_are_those_of_the_eager_maps(name: str, batch_tokens: int):
    network = NETWORKS[name]()
    assert unwrap(network).config.num_key_value_heads < unwrap(network).config.num_attention_heads
    rows = attention.last_rows(network, PROMPTS, pad_id=tiny.PAD, batch_tokens=batch_tokens)
    for prompt, row_NL in zip(PROMPTS, rows, strict=True):
        assert row_NL.shape == (2, len(prompt))
        np.testing.assert_allclose(row_NL, eager_last_row(network, prompt), atol=1e-5, rtol=0)


def test_the_adapter_and_the_order_of_the_tokens_matter_to_the_numbers():
    """Else the agreement above would say nothing of LoRA and RoPE."""
    bare, tuned = (
        attention.last_rows(n, PROMPTS[:1], pad_id=0, batch_tokens=99)[0] for n in (tiny.network(), adapted())
    )
    assert np.abs(bare - tuned).max() > 0.05
    swapped = [[1, 8, 9, *PROMPTS[0][3:]]]
    moved = attention.last_rows(tiny.network(), swapped, pad_id=0, batch_tokens=99)[0]
    assert np.abs(moved[0, [2, 1]] - bare[0, [1, 2]]).max() > 1e-3


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(4, 47), min_size=1, max_size=20), min_size=1, max_size=5), st.integers(1, 60))
def test_every_layer_gives_its_whole_attention_to_the_prompt(prompts: list[list[int]], batch_tokens: int):
    rows = attention.last_rows(tiny.network(), prompts, pad_id=tiny.PAD, batch_tokens=batch_tokens)
    for prompt, row_NL in zip(prompts, rows, strict=True):
        assert row_NL.shape == (2, len(prompt))
        assert (row_NL > 0).all()
        np.testing.assert_allclose(row_NL.sum(axis=1), 1.0, atol=1e-5)


def test_what_a_window_does_not_reach_is_exactly_zero_and_the_reach_says_so():
    network = windowed(5)
    assert attention.reaches(network) == [5, 5]
    row_NL = attention.last_rows(network, PROMPTS[:1], pad_id=0, batch_tokens=99)[0]
    assert (row_NL[:, :-5] == 0).all() and (row_NL[:, -5:] > 0).all()
    np.testing.assert_allclose(row_NL.sum(axis=1), 1.0, atol=1e-5)


def test_without_a_window_every_layer_reaches_everything():
    assert attention.reaches(adapted()) == [None, None]


def test_layers_of_two_kinds_have_each_their_own_reach():
    network = windowed(5)
    network.config.layer_types = ["full_attention", "sliding_attention"]
    assert attention.reaches(network) == [None, 5]


def test_the_network_is_left_as_it_was():
    network = tiny.network().train()
    attention.last_rows(network, PROMPTS, pad_id=tiny.PAD, batch_tokens=99)
    assert network.training and network.config._attn_implementation == "sdpa"
