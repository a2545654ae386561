"""Attention of chosen tokens is what eager attention returns, with its gradient, whatever the model runs on."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    NemotronConfig,
    PreTrainedModel,
    Qwen3Config,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from pipeline.model import causal_lm, collator
from pipeline.model.attention_rows import AttentionRows
from pipeline.model.collator import ModelInputs
from tests.model import tiny

SHAPE: dict[str, Any] = {
    "vocab_size": 48, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "initializer_range": 0.4, "pad_token_id": tiny.PAD, "bos_token_id": tiny.BOS,
    "eos_token_id": tiny.EOS,
}  # fmt: skip
GEMMA = "gemma2, soft cap, a window in every other layer"
SILENT = "nemotron, whose layers hand on nothing"
CONFIGS = {
    "mistral": MistralConfig(**SHAPE, sliding_window=None),
    "mistral, window": MistralConfig(**SHAPE, sliding_window=5),
    "qwen3, norms of queries and keys": Qwen3Config(**SHAPE, head_dim=8),
    GEMMA: Gemma2Config(**SHAPE, head_dim=8, query_pre_attn_scalar=8, sliding_window=5, attn_logit_softcapping=2.0),
    "llama": LlamaConfig(**SHAPE),
    SILENT: NemotronConfig(**SHAPE, head_dim=4),
}
VIEWS = [([1, 9, 8, 7, 6, 5, 4, 10, 11, 12, 13, 2], 9), ([1, 20, 21, 22, 23, 2], 4), ([1, 40, 41, 42, 43, 44, 2], 5)]
ROW_N, POSITION_N = torch.tensor([0, 0, 1, 2]), torch.tensor([8, 10, 3, 5])  # not all rows alike, one is twice there


def network(name: str, implementation: str = "sdpa") -> PreTrainedModel:
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(CONFIGS[name], attn_implementation=implementation)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():  # norms are not all ones
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    # In fp64 transformers' eager attention is NaN for padding that sees nothing in its window.
    return made.to(torch.float32 if implementation == "eager" else torch.float64).eval()


def inputs() -> ModelInputs:
    ids = [np.array(view, dtype=np.int32) for view, _ in VIEWS]
    places = [np.arange(len(view), dtype=np.int32) for view, _ in VIEWS]
    return collator.pad(ids, places, [end for _, end in VIEWS], tiny.PAD)


def whole(weights_NHL: Tensor, seen_NL: Tensor) -> Tensor:
    return weights_NHL


def read(model: Any, given: ModelInputs, reduce: Any = whole, **options: Any) -> AttentionRows:
    found = AttentionRows(given, ROW_N, POSITION_N, reduce, **options)
    causal_lm.hidden_states(model, given, attention=found)
    return found


def eager(model: Any) -> list[Tensor]:
    """The same rows out of the maps of each view by itself."""
    model.set_attn_implementation("eager")
    length = max(len(view) for view, _ in VIEWS)
    maps = [model(torch.tensor([view]), output_attentions=True).attentions for view, _ in VIEWS]
    chosen = list(zip(ROW_N.tolist(), POSITION_N.tolist(), strict=True))
    layers = range(len(maps[0]))
    rows = [[maps[row][layer][0, :, at] for row, at in chosen] for layer in layers]
    return [
        torch.stack([torch.nn.functional.pad(one, (0, length - one.shape[1])) for one in of_layer]) for of_layer in rows
    ]


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(name, kind) for name in CONFIGS for kind in ("sdpa", "eager") if (name, kind) != (GEMMA, "sdpa")],
)  # transformers runs Gemma 2 on eager attention alone
def test_rows_and_their_gradients_are_those_of_eager_attention(name: str, implementation: str):
    model = network(name, implementation)
    found = read(model, inputs()).reduced
    expected = eager(model)
    assert list(found) == [0, 1]
    for layer, rows_NHL in enumerate(expected):
        torch.testing.assert_close(found[layer], rows_NHL.to(found[layer].dtype), rtol=1e-5, atol=1e-6)
    factors = [torch.randn(rows.shape, generator=torch.Generator().manual_seed(2)) for rows in expected]
    gradients = []
    for rows in (list(found.values()), expected):
        model.zero_grad()
        sum((one * factor).sum() for one, factor in zip(rows, factors, strict=True)).backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    ours, theirs = gradients
    assert ours.keys() == theirs.keys() and any("q_proj" in name for name in ours)
    for key, grad in theirs.items():  # eager takes the softmax in fp32 whatever the model's type
        torch.testing.assert_close(ours[key], grad, rtol=1e-4, atol=1e-5, msg=lambda text, key=key: key + text)


@pytest.mark.parametrize("name", ["mistral, window", GEMMA])
def test_what_a_window_does_not_reach_is_exactly_zero_and_said(name: str):
    found = read(network(name, "eager"), inputs(), lambda weights_NHL, seen_NL: (weights_NHL, seen_NL)).reduced
    weights_NHL, seen_NL = found[0]
    assert seen_NL[0].tolist() == [False] * 4 + [True] * 5 + [False] * 3
    assert bool((weights_NHL[~seen_NL[:, None].expand_as(weights_NHL)] == 0).all())
    assert found[1][1][0].sum() == (5 if "mistral" in name else 9)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_questions_in_one_row_attend_as_in_rows_of_their_own(implementation: str, window: int | None):
    model = tiny.network(dtype=torch.float64)
    model.config.sliding_window = window
    model.set_attn_implementation(implementation)
    ids = [np.array([1, 5, 6, 7, 8, *own], dtype=np.int32) for own in ([20, 21, 2], [30, 31, 32, 33, 2])]
    single = [collator.row_of_one(one, np.arange(len(one), dtype=np.int32), len(one) - 1) for one in ids]
    found = []
    for rows in (single, [collator.row_of_many(single, 5)]):
        given = collator.collate(rows, tiny.PAD)
        made = AttentionRows(given, given.row_E, given.prompt_end_E - 1, whole)
        causal_lm.hidden_states(model, given, attention=made)
        found.append(made.reduced)
    for layer in (0, 1):
        apart, shared = (of[layer] for of in found)
        together = torch.zeros_like(shared)
        together[0, :, :8] = apart[0, :, :8]
        together[1, :, :5], together[1, :, 8:] = apart[1, :, :5], apart[1, :, 5:10]
        torch.testing.assert_close(shared, together, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["mistral", SILENT])
def test_activation_checkpointing_changes_no_gradient(name: str):
    gradients = []
    for checkpointed in (False, True):
        model = network(name).train()
        if checkpointed:
            model.activation_checkpointing_enable({"use_reentrant": False})
        rows = read(model, inputs(), lambda weights_NHL, seen_NL: weights_NHL.square().sum()).reduced
        sum(rows.values()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    plain, repeated = gradients
    assert plain.keys() == repeated.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(repeated[name], grad, rtol=1e-12, atol=1e-15)


def test_only_the_layers_asked_for_are_read():
    model = network("llama")
    every = read(model, inputs()).reduced
    last = read(model, inputs(), layers=(1,)).reduced
    assert list(last) == [1]
    assert torch.equal(last[1], every[1])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_forward_is_bitwise_what_it_is_without_the_wrapper(implementation: str, monkeypatch: pytest.MonkeyPatch):
    model, given = network("mistral, window", implementation), inputs()
    with torch.no_grad():
        hidden_BLD = causal_lm.hidden_states(model, given)
        read_too = AttentionRows(given, ROW_N, POSITION_N, whole)
        assert torch.equal(causal_lm.hidden_states(model, given, attention=read_too), hidden_BLD)
        monkeypatch.setitem(AttentionInterface._global_mapping, "sdpa", sdpa_attention_forward)
        monkeypatch.delitem(AttentionInterface._global_mapping, "eager")
        assert torch.equal(causal_lm.hidden_states(model, given), hidden_BLD)
        with pytest.raises(KeyError):  # it is gone indeed
            _ = read(model, given).reduced[0]


def test_over_a_bf16_base_the_weights_are_computed_in_fp32():
    """Training runs under autocast, which would round the scores to eight bits."""
    model, found = network("mistral").bfloat16(), []
    for enabled in (True, False):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found.append(read(model, inputs()).reduced[0])
    assert found[0].dtype == torch.float32
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-7)
