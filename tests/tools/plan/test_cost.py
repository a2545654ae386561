"""Predicted FLOPs against torch's own counter on a small random Mistral, and against literal figures for 7B."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import MistralConfig, MistralForCausalLM

from pipeline.model import causal_lm, collator
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.plan import cost, shapes
from pipeline.training import losses
from tests.model import tiny

LABELS, ROWS = 6, 2
MISTRAL_7B = shapes.read(shapes.PUBLISHED["mistralai/Mistral-7B-v0.1"] | {"sliding_window": None}, 2, "Mistral-7B")


def network(*, adapter: bool = True, embedding: str = "lora", window: int | None = None, checkpointing: bool = False):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window, pad_token_id=tiny.PAD,
    )  # fmt: skip
    made: Any = MistralForCausalLM(config)
    if adapter:
        made = causal_lm.add_adapter(made, rank=4, alpha=8, dropout=0.0, embedding=embedding, norms=True, mask_id=3)
    if checkpointing:
        made.activation_checkpointing_enable({"use_reentrant": False})
    return made.train()


def shape_of(made: Any) -> shapes.Shape:
    return shapes.read(made.config.to_dict(), made.lm_head.weight.element_size(), "test")


def view(tokens: int, *, padded: bool = False) -> collator.View:
    lengths = [tokens, tokens - 5 if padded else tokens]
    ids = [np.full(length, 7, dtype=np.int32) for length in lengths]
    places = [np.arange(length, dtype=np.int32) for length in lengths]
    return collator.pad(ids, places, [length - LABELS for length in lengths], tiny.PAD)


def measured(made: Any, of: collator.View) -> tuple[float, float]:
    """FLOPs of the forward, and of forward and backward, by torch's rules (which count every pair of tokens)."""
    aten: Any = torch.ops.aten
    rules = {  # torch has none for the CPU's kernel; these are its rules for CUDA's
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **named: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *rest, **named: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=rules) as counter:
        hidden_BLD = causal_lm.hidden_states(made, of)
        logits_NV = causal_lm.logits_at_labels(made, hidden_BLD, of)
        loss = losses.causal_lm(logits_NV, of.labels_N, of.label_examples_N, len(of.row_E)).sum()
        forward = counter.get_total_flops()
        loss.backward()
    return forward, counter.get_total_flops()


@pytest.mark.parametrize("tokens", [48, 160])
@pytest.mark.parametrize(
    ("settings", "padded"),
    [
        ({}, False),
        ({}, True),
        ({"embedding": "none"}, False),
        ({"checkpointing": True}, False),
        ({"window": 32}, False),
        ({"adapter": False}, False),
        ({"adapter": False, "checkpointing": True}, True),
    ],
)
def test_training_flops_are_those_that_torch_counts(settings: dict[str, Any], padded: bool, tokens: int):
    made = network(**settings)
    shape, adapter = shape_of(made), settings.get("adapter", True)
    embedding = settings.get("embedding") != "none"
    forward, both = measured(made, view(tokens, padded=padded))
    # The counter knows no causal kernel, so every row counts as one with a mask.
    predicted = ROWS * cost.forward_flops(shape, tokens, labels=LABELS, padded=True)
    if adapter:
        predicted += ROWS * cost.lora_flops(shape, tokens, 4, embedding=embedding)
    assert predicted == pytest.approx(forward, rel=0.02)
    predicted = ROWS * cost.training_flops(
        shape,
        tokens,
        labels=LABELS,
        recompute="early_stop" if settings.get("checkpointing") else "none",
        rank=4 if adapter else None,
        embedding=embedding,
        padded=True,
    )
    assert predicted == pytest.approx(both, rel=0.02)


def test_a_forward_of_7b_is_the_known_formula():
    for tokens in (4096, 8192, 16384, 32768):
        known = 13.96e9 * tokens + 262_144 * tokens**2
        assert cost.forward_flops(MISTRAL_7B, tokens) == pytest.approx(known, rel=0.001)


@pytest.mark.parametrize(("tokens", "tera"), [(4096, 191), (8192, 422), (16384, 1003), (32768, 2639)])
def test_a_checkpointed_lora_step_of_7b(tokens: int, tera: float):
    whole = cost.training_flops(MISTRAL_7B, tokens, labels=32, recompute="whole", rank=8)
    assert whole / 1e12 == pytest.approx(tera, rel=0.02)
    executed = cost.training_flops(MISTRAL_7B, tokens, labels=32, recompute="early_stop", rank=8)
    assert 0.9 < executed / whole < 0.96  # torch stops before the MLP's last matrix
    cached = cost.training_flops(MISTRAL_7B, tokens, labels=32, recompute="whole", rank=8, cached=True)
    assert cached / whole == pytest.approx(4 / 3, rel=0.05)  # less where attention is much


def test_a_mask_costs_the_upper_half_and_a_window_brings_one():
    windowed = shapes.read(shapes.PUBLISHED["mistralai/Mistral-7B-v0.1"], 2, "Mistral-7B")
    assert not cost.has_mask(windowed, 4096, padded=False)
    assert cost.has_mask(windowed, 4097, padded=False)
    dense = cost.attention_flops(windowed, 8192, masked=True)
    assert dense == pytest.approx(2 * cost.attention_flops(windowed, 8192, masked=False), rel=0.001)
    assert cost.forward_flops(windowed, 8192) == pytest.approx(13.96e9 * 8192 + 524_288 * 8192**2, rel=0.001)


def test_tokens_behind_a_cache_cost_what_the_whole_row_costs_beyond_it():
    shape = shape_of(network(adapter=False))
    whole = cost.forward_flops(shape, 100, padded=True)
    parts = cost.forward_flops(shape, 60, padded=True) + cost.continued_flops(shape, 40, 60)
    missing = cost.attention_flops(shape, 1, masked=True) * 60 * 40  # the first part never sees the second
    assert parts + missing == pytest.approx(whole)


def test_the_shape_counts_the_weights_that_the_model_has():
    for settings in ({}, {"embedding": "none"}):
        made = network(**settings)
        trained = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
        assert shape_of(made).trainable(4, embedding=settings == {}, norms=True) == trained
    made = network(adapter=False)
    assert shape_of(made).weights == sum(parameter.numel() for parameter in made.parameters())
    assert MISTRAL_7B.weights == 7_241_732_096
    assert MISTRAL_7B.trainable(8, embedding=False, norms=False) == 6_815_744
    assert MISTRAL_7B.cache_bytes == 131_072


def test_a_window_that_is_not_used_is_none():
    config = {**shapes.PUBLISHED["mistralai/Mistral-7B-v0.1"], "model_type": "qwen2", "use_sliding_window": False}
    assert shapes.read(config, 2, "Qwen").window is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "x: model_type is 'mamba'; the cost is known for llama, mistral"),
        ({"hidden_size": None}, "x: hidden_size is None; whole numbers"),
        ({"num_hidden_layers": True, "vocab_size": "9"}, "x: num_hidden_layers is True, vocab_size is '9'; "),
    ],
)
def test_a_config_of_another_kind_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ArtifactError) as caught:
        shapes.read(shapes.PUBLISHED["mistralai/Mistral-7B-v0.1"] | change, 2, "x")
    assert str(caught.value).startswith(message)
