"""Every family: what is trained of it, and that hidden states, logits, generation and shared contexts are its own."""

import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig

from pipeline.model import causal_lm, collator, generation, loading, lora, prefix_cache
from pipeline.model.attention_rows import AttentionRows
from pipeline.model.prefix_cache import Suffix
from pipeline.runtime.errors import ArtifactError, ConfigError
from tests.model import families, tiny

LAYERS = 2
QKVO = "k_proj o_proj q_proj v_proj"
PARTS = {  # names of the projections, projections of a layer, norms of a layer
    "Mistral, a window": (QKVO, 4, 2), "Llama 3, tied": (QKVO, 4, 2), "Qwen2, no BOS": (QKVO, 4, 2),
    "Qwen3": (QKVO, 4, 4), "Gemma 2": (QKVO, 4, 4), "Gemma 3": (QKVO, 4, 6), "Phi-3": ("o_proj qkv_proj", 2, 2),
    "OLMo2": (QKVO, 4, 4), "SmolLM3": (QKVO, 4, 2), "Granite": (QKVO, 4, 2), "Cohere": (QKVO, 4, 1),
    "Mixtral": (QKVO, 4, 2), "Qwen3 MoE": (QKVO, 4, 4),
    "StableLM": (QKVO, 4, 8), "Nemotron": (QKVO, 4, 2), "GPT-2": ("c_attn c_proj", 2, 2),
    "GPT-NeoX": ("dense query_key_value", 2, 2),
}  # fmt: skip
LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "norms": True, "mask_id": tiny.MASK}


@pytest.mark.parametrize("name", families.FAMILIES)
def test_every_projection_every_norm_and_the_embedding_are_trained_and_said(name: str):
    network = families.network(name)
    found = lora.parts(network)
    projections, per_layer, norms = PARTS[name]
    assert found.projections == projections.split()
    assert (len(found.attention), len(found.norms)) == (LAYERS * per_layer, LAYERS * norms + 1)
    adapted = lora.add_adapter(network, **LORA, embedding="lora")
    said = lora.report(found, adapted)
    for part, num in (("attention", LAYERS * per_layer), ("norms", LAYERS * norms + 1), ("embedding", 1)):
        assert (said[part]["trained"], said[part]["of"]) == (num, num)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert sum(said[part]["parameters"] for part in ("attention", "norms", "embedding")) == trained
    assert not [name for name in said["not_trained"] if re.search("attn|attention|norm|ln_|embed_tokens", name)]
    without = lora.add_adapter(families.network(name), **LORA | {"norms": False}, embedding="none")
    said = lora.report(found, without)
    assert [said[part]["trained"] for part in ("attention", "norms", "embedding")] == [LAYERS * per_layer, 0, 0]
    assert {found.norms[-1], found.embedding} <= set(said["not_trained"])


@pytest.mark.parametrize("embedding", ["lora", "mask_token", "full"])
@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_step_moves_every_trained_part_and_a_merged_model_has_its_logits(name: str, embedding: Any):
    adapted = lora.add_adapter(families.network(name), **LORA, embedding=embedding)
    ids = torch.tensor([[1, 9, 3, 8, 7, 3, 6, 5, 4, 10]])
    trained = {name: p for name, p in adapted.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(trained.values(), lr=0.5)
    before = {name: p.detach().clone() for name, p in trained.items()}
    for _ in range(2):  # in the first, the zeros of LoRA hide its other matrices
        optimizer.zero_grad()
        adapted(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
    assert [name for name, p in trained.items() if torch.equal(p, before[name])] == []
    adapted.eval()
    with torch.no_grad():
        expected = adapted(input_ids=ids).logits
        merged = lora.merge(adapted)
        torch.testing.assert_close(merged(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
    plain = families.network(name, tie_word_embeddings=merged.config.tie_word_embeddings)
    assert {name for name, _ in merged.named_parameters()} == {name for name, _ in plain.named_parameters()}


def rows() -> tuple[collator.ModelInputs, list[list[int]]]:
    draw = np.random.default_rng(0)
    ids = [draw.integers(4, 48, length).astype(np.int32) for length in (40, 31)]
    places = [np.arange(len(row), dtype=np.int32) for row in ids]
    return collator.pad(ids, places, [len(row) - 3 for row in ids], tiny.PAD), [row.tolist() for row in ids]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_logits_and_read_attention_are_those_of_the_whole_model(name: str):
    network = families.network(name, "eager")
    inputs, alone = rows()
    last_E = inputs.prompt_end_E - 1
    read = AttentionRows(inputs, inputs.row_E, last_E, lambda weights_NHL, _: weights_NHL)
    with torch.no_grad():
        hidden_BLD = causal_lm.hidden_states(network, inputs, attention=read)
        logits_NV = causal_lm.logits_at_labels(network, hidden_BLD, inputs)
        fewer_BLD = causal_lm.hidden_states(network, inputs, last_E)
        whole = [network(input_ids=torch.tensor([row]), output_attentions=True) for row in alone]
    torch.testing.assert_close(fewer_BLD[inputs.row_E, last_E], hidden_BLD[inputs.row_E, last_E])
    expected = torch.cat([one.logits[0, -4:-1] for one in whole])
    torch.testing.assert_close(logits_NV, expected, rtol=1e-4, atol=1e-5)
    assert list(read.reduced) == list(range(LAYERS))
    for layer, rows_NHL in read.reduced.items():
        for number, (one, row) in enumerate(zip(whole, alone, strict=True)):
            theirs_HL = one.attentions[layer][0, :, len(row) - 4]
            torch.testing.assert_close(rows_NHL[number, :, : len(row)], theirs_HL, rtol=1e-4, atol=1e-6)


def greedy(network: Any, prompt: list[int], num: int) -> list[int]:
    ids = list(prompt)
    for _ in range(num):
        with torch.no_grad():
            logits_V = network(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
        logits_V[[tiny.PAD, tiny.MASK]] = -torch.inf
        ids.append(int(logits_V.argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", families.FAMILIES)
def test_answers_in_batches_and_over_a_shared_context_are_the_models_own(name: str):
    network = families.network(name)
    _, (context, other) = rows()
    questions = [[11, 12], [13, 14, 15], [16]]
    expected = [greedy(network, [*context, *question], 5) for question in questions]
    settings: Any = {"max_new_tokens": 5, "banned_ids": [tiny.PAD, tiny.MASK], "batch_tokens": 1_000}
    prompts = [[*context, *question] for question in questions]
    alone = generation.generate(network, [*prompts, other], eos_ids=[-1], pad_id=tiny.PAD, **settings)
    assert alone == [*expected, greedy(network, other, 5)]
    shared = prefix_cache.answer(
        network, context, [Suffix(question, [[20, 21], [22]]) for question in questions], eos_ids=[-1], **settings
    )
    assert [one.output_ids for one in shared] == expected
    ids = torch.tensor([[*prompts[1], 20, 21]])
    with torch.no_grad():
        log_probs = network(input_ids=ids).logits[0].log_softmax(dim=-1)
    assert shared[1].log_probs[0] == pytest.approx(float(log_probs[-3, 20] + log_probs[-2, 21]), abs=1e-4)
    stops = [expected[0][2], expected[1][1]]
    ended = [tokens[: min([tokens.index(s) for s in stops if s in tokens], default=5)] for tokens in expected]
    assert generation.generate(network, prompts, eos_ids=stops, pad_id=tiny.PAD, **settings) == ended
    answered = prefix_cache.answer(network, context, [Suffix(one) for one in questions], eos_ids=stops, **settings)
    assert [one.output_ids for one in answered] == ended


HIDDEN = "nobody can read or mask its attention, which is none of transformers' implementations"
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt_neo": (HIDDEN, {"attention_types": [[["global", "local"], 1]]}),
    "gptj": (HIDDEN, {}),
    "falcon": (HIDDEN, {}),
    "bloom": ("its forward takes no position ids", {}),
    "mamba": ("its forward takes no position ids", {}),
    "opt": ("its logits cannot be made of hidden states alone", {}),
    "bert": ("its tokens attend to later ones", {}),
    "lfm2": ("layer 1 has 0 attentions among its parts", {"layer_types": ["conv", "full_attention"]}),
    "gpt_oss": ("in the attention of layer 1, sinks is of no linear layer", {}),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_base_that_is_not_of_the_shape_is_refused_by_name(kind: str):
    reason, own = REFUSED[kind]
    config = AutoConfig.for_model(kind, **{"vocab_size": 48, **families.SHAPE, **own})
    with pytest.raises(ArtifactError) as error:
        lora.parts(loading.skeleton(config))
    assert str(error.value).startswith(f"a model of type {kind!r} cannot be trained: {reason}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "window", "expected"),
    [
        ("Mistral, a window", "own", {"sliding_attention": 24}),
        ("Mistral, a window", 8, {"sliding_attention": 8}),
        ("Mistral, a window", None, {"full_attention": None}),
        ("Gemma 3", "own", {"sliding_attention": 24, "full_attention": None}),
        ("Gemma 3", 8, {"sliding_attention": 8, "full_attention": None}),
        ("Gemma 3", None, {"sliding_attention": 512, "full_attention": None}),
        ("Qwen2, no BOS", None, {"full_attention": None}),
        ("Granite", "own", {"full_attention": None}),
        ("Granite", None, {"full_attention": None}),
    ],
)
def test_a_window_is_touched_only_where_it_is_set(name: str, window: Any, expected: dict[str, int | None]):
    config = families.config(name)
    causal_lm.set_window(config, window)
    assert causal_lm.windows(config) == expected


@pytest.mark.parametrize("name", ["Granite", "Qwen2, no BOS"])
def test_a_window_for_a_model_without_one_is_refused(name: str):
    with pytest.raises(ConfigError, match=r"sliding_window is 8, but no layer of this \w+ model has a window; set it"):
        causal_lm.set_window(families.config(name), 8)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("starcoder2", "runs: 8 projections"), ("gptj", "refused: a model of"), ("afmoe", "refused: PEFT cannot train")],
)
def test_the_survey_of_all_other_model_types(kind: str, expected: str):
    from tests.model import survey  # which has its rows from here

    assert survey.outcome(kind).startswith(expected)
