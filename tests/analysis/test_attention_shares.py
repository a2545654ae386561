"""Attention by role: which chunk plays which, and how a row is divided."""

import json
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.analysis import attention
from pipeline.analysis.attention import ROLES, Shares


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


def shares(gold: list[float], out: list[float]) -> Shares:
    mass_NR = np.array([[share, 0.1, 0.9 - share, 0.0] for share in gold])
    return Shares(mass_NR, np.array([0.1, 0.2, 0.3, 0.4]), np.array(out))


def figures(found: list[Shares], reaches: list[int | None]) -> dict:
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
        assert sum(layer[role]["mean"] for role in ROLES) == pytest.approx(1.0)


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
    found = attention.of_tokens([shares([0.2], [0]), other])
    assert found == pytest.approx({"gold": 0.2, "namesake": 0.2, "other": 0.2, "rest": 0.4})
