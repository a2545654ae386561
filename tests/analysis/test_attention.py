"""Attention of the last token equals transformers' eager maps in any batch, window or adapter; division by role."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis import attention
from pipeline.model.causal_lm import unwrap
from pipeline.model.lora import add_adapter
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


def test_the_network_keeps_its_kind_of_attention():
    network = tiny.network()
    attention.last_rows(network, PROMPTS, pad_id=tiny.PAD, batch_tokens=99)
    assert network.config._attn_implementation == "sdpa"


def test_roles_of_people_who_share_a_first_or_a_last_name():
    titles = ["Ada Berger", "Ada Holm", "Hugo Berger", "Hugo Holm"]
    assert attention.roles("abcd", titles, [True, False, False, False]) == [
        "gold", "namesake", "namesake", "other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("title", "role"),
    [
        ("Lord of War", "namesake"),
        ("THE RINGS", "namesake"),  # whatever its case
        ("History of the Jews", "other"),  # `of the` name nothing
        ("Ringside", "other"),  # whole words only
        ("Ring-bearers (rings)", "namesake"),
        ("", "other"),
        ("(2) —", "other"),  # marks are no words
    ],
)
def test_a_namesake_has_a_word_of_the_gold_title_that_names_something(title: str, role: str):
    assert attention.roles(["g", "x"], ["The Lord of the Rings (—)", title], [True, False])[1] == role


def test_a_chunk_of_the_gold_document_that_is_not_gold_is_no_namesake_of_its_own():
    found = attention.roles(["g", "g", "x"], ["Ada Holm", "Ada Holm", "Ada Berg"], [False, True, False])
    assert found == ["other", "gold", "namesake"]


def test_several_gold_documents_have_all_their_namesakes():
    found = attention.roles("abcd", ["Ada One", "Two Bruno", "One X", "Y Bruno"], [True, True, False, False])
    assert found == ["gold", "gold", "namesake", "namesake"]


def test_a_literal_row_is_divided_by_token_and_what_the_window_hides_is_said():
    row_NL = np.array([[0.1, 0.2, 0.3, 0.1, 0.1, 0.1, 0.1], [0, 0, 0, 0.25, 0.25, 0.25, 0.25]], dtype=np.float32)
    # BOS, gold 1-2 and 3-4 (in two chunks), other 4-5, a chunk that was cut away, two tokens of the question
    shares = attention.divide(row_NL, [1, 3, 4, 5], [3, 4, 5, 5], ["gold", "gold", "other", "namesake"], [None, 4])
    np.testing.assert_allclose(shares.mass_NR, [[0.6, 0.0, 0.1, 0.3], [0.25, 0.0, 0.25, 0.5]], atol=1e-6)
    np.testing.assert_allclose(shares.tokens_R, [3 / 7, 0, 1 / 7, 3 / 7])
    np.testing.assert_allclose(shares.out_of_reach_N, [0.0, 2 / 3])


@given(st.data())
def test_shares_of_every_layer_and_of_the_tokens_sum_to_one(data: st.DataObject):
    cuts = sorted(data.draw(st.sets(st.integers(1, 29), min_size=2, max_size=9)))
    roles = [data.draw(st.sampled_from(("namesake", "other", "gold"))) for _ in cuts[:-1]]
    roles[data.draw(st.integers(0, len(roles) - 1))] = "gold"
    row_NL = np.random.default_rng(len(cuts)).dirichlet(np.ones(30), size=3).astype(np.float32)
    reaches = data.draw(st.lists(st.one_of(st.none(), st.integers(1, 40)), min_size=3, max_size=3))
    shares = attention.divide(row_NL, cuts[:-1], cuts[1:], roles, reaches)
    np.testing.assert_allclose(shares.mass_NR.sum(axis=1), 1.0, atol=1e-6)
    assert shares.tokens_R.sum() == pytest.approx(1.0)
    spans = zip(pairwise(cuts), roles, strict=True)
    gold = [place for (start, end), role in spans if role == "gold" for place in range(start, end)]
    for reach, out in zip(reaches, shares.out_of_reach_N, strict=True):
        assert out == pytest.approx(sum(reach is not None and place < 30 - reach for place in gold) / len(gold))


def shares(gold: list[float], out: list[float]) -> attention.Shares:
    mass_NR = np.array([[share, 0.1, 0.9 - share, 0.0] for share in gold])
    return attention.Shares(mass_NR, np.array([0.1, 0.2, 0.3, 0.4]), np.array(out))


def figures(found: list[attention.Shares], reaches: list[int | None]) -> dict:
    names = [f"q{index}" for index in range(len(found))]
    made = attention.figures(found, list(range(len(found))), names, 4, reaches, 50)
    json.dumps(made, allow_nan=False)
    return made


def test_figures_by_layer_and_over_the_layers():
    made = figures([shares([0.2, 0.4], [0, 0]), shares([0.4, 0.8], [0, 0])], [None, None])
    assert [layer["layer"] for layer in made["layers"]] == [1, 2]
    assert [layer["gold"]["mean"] for layer in made["layers"]] == pytest.approx([0.3, 0.6])
    assert made["all_layers"]["gold"]["mean"] == pytest.approx(0.45)
    along = made["by_gold_position"]["gold"]
    assert [part["mean"] for part in along["parts"]] == pytest.approx([0.3, 0.6])
    assert along["slope"]["mean"] == pytest.approx(0.9)  # 0.3 by place, of three steps
    for layer in (*made["layers"], made["all_layers"]):
        assert sum(layer[role]["mean"] for role in attention.ROLES) == pytest.approx(1.0)


def test_gold_out_of_the_windows_reach_is_no_low_attention():
    near, far = shares([0.2, 0.4], [0.0, 0.0]), shares([0.4, 0.0], [0.0, 1.0])
    made = figures([near, far], [None, 4])
    assert made["layers"][1]["gold"]["mean"] == pytest.approx(0.4)  # of `near` alone, not 0.2
    assert (made["layers"][1]["num_examples"], made["layers"][1]["gold_out_of_reach"]) == (1, 0.5)
    assert made["all_layers"]["gold"]["mean"] == pytest.approx((0.3 + 0.4) / 2)


def test_a_window_that_reaches_no_gold_leaves_a_gap_and_no_zero():
    made = figures([shares([0.0], [1.0]), shares([0.0], [0.5])], [4])
    assert made["layers"][0]["gold"] is None and made["all_layers"]["gold"] is None
    assert (made["layers"][0]["num_examples"], made["layers"][0]["gold_out_of_reach"]) == (0, 0.75)
    assert made["by_gold_position"]["gold"]["parts"] == []


def test_the_level_of_the_tokens_is_a_mean_over_prompts():
    other = shares([0.2], [0])._replace(tokens_R=np.array([0.3, 0.2, 0.1, 0.4]))
    found = figures([shares([0.2], [0]), other], [None])
    assert found["token_shares"] == pytest.approx({"gold": 0.2, "namesake": 0.2, "other": 0.2, "rest": 0.4})
