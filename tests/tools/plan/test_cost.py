"""On a small random Mistral predicted FLOPs equal those of torch's counter and predicted bytes what autograd keeps; for
7B both equal literal figures."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count
from transformers import MistralConfig, MistralForCausalLM

from pipeline.model import causal_lm, collator, lora
from pipeline.tools.plan import cost, model_shape
from pipeline.tools.plan.cost import Forward
from pipeline.training import attention, losses
from pipeline.training.attention import AttentionLoss
from tests.model import tiny

LABELS, ROWS = 6, 2
CONFIG_7B = MistralConfig().to_dict()
MISTRAL_7B = model_shape.parse(CONFIG_7B | {"sliding_window": None}, 2, "Mistral-7B")


def network(*, adapter: bool = True, embedding: str = "lora", window: int | None = None, checkpointing: bool = False):
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=80, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=window, pad_token_id=tiny.PAD,
    )  # fmt: skip
    made: Any = MistralForCausalLM(config)
    if adapter:
        made = lora.add_adapter(made, rank=4, alpha=8, dropout=0.0, embedding=embedding, norms=True, mask_id=3)
    if checkpointing:
        made.activation_checkpointing_enable({"use_reentrant": False})
    return made.train()


def shape_of(made: Any) -> model_shape.Shape:
    return model_shape.parse(made.config.to_dict(), made.lm_head.weight.element_size(), "test")


def view(tokens: int, *, padded: bool = False) -> collator.ModelInputs:
    lengths = [tokens, tokens - 5 if padded else tokens]
    ids = [np.full(length, 7, dtype=np.int32) for length in lengths]
    places = [np.arange(length, dtype=np.int32) for length in lengths]
    return collator.pad(ids, places, [length - LABELS for length in lengths], tiny.PAD)


def measured(made: Any, of: collator.ModelInputs, taught: AttentionLoss | None = None) -> tuple[float, float]:
    """FLOPs of the forward, and of forward and backward, by torch's rules (which count every pair of tokens)."""
    aten: Any = torch.ops.aten
    rules = {  # torch has none for the CPU's kernel; these are its rules for CUDA's
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *rest, **named: sdpa_flop_count(q, k, v),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: (
            lambda grad, q, k, v, *rest, **named: sdpa_backward_flop_count(grad, q, k, v)
        ),
    }
    with FlopCounterMode(display=False, custom_mapping=rules) as counter:
        rows = None if taught is None else taught.rows(of)
        hidden_BLD = causal_lm.hidden_states(made, of, attention=rows)
        logits_NV = causal_lm.logits_at_labels(made, hidden_BLD, of)
        loss = losses.causal_lm(logits_NV, of.labels_N, of.label_examples_N, len(of.row_E)).sum()
        if rows is not None:
            loss = loss + attention.mean_over_layers(rows).sum()
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


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("queries", "num"), [("last_prompt", 1), ("answer", LABELS)])
@pytest.mark.parametrize(("layers", "num_layers"), [(None, 3), ((1,), 1)])
def test_flops_of_taught_attention_are_those_that_torch_counts(
    checkpointing: bool, queries: Any, num: int, layers: tuple[int, ...] | None, num_layers: int
):
    made, of = network(checkpointing=checkpointing), view(48)
    chunks = torch.arange(48).expand(ROWS, -1) // 16
    of = of._replace(chunk_BL=chunks, target_EC=torch.eye(3)[:ROWS])
    alone, both = (measured(made, of, taught) for taught in (None, AttentionLoss(layers, "mean", queries)))
    recompute: cost.Recompute = "early_stop" if checkpointing else "none"
    predicted = ROWS * cost.attention_rows_flops(
        shape_of(made), 48, queries=num, layers=num_layers, recompute=recompute
    )
    assert both[1] - alone[1] == predicted


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
    windowed = model_shape.parse(CONFIG_7B, 2, "Mistral-7B")
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


def kept(made: Any, tokens: int, *, padded: bool) -> int:
    """Bytes of the distinct storages saved for backward, parameters left out."""
    own = {tensor.untyped_storage().data_ptr() for tensor in (*made.parameters(), *made.buffers())}
    bytes_of: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no address is used twice

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            bytes_of[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    of = view(tokens, padded=padded)
    mixed = made.lm_head.weight.dtype == torch.bfloat16
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed),
    ):
        logits_NV = causal_lm.logits_at_labels(made, causal_lm.hidden_states(made, of), of)
        losses.causal_lm(logits_NV, of.labels_N, of.label_examples_N, len(of.row_E))
    return sum(bytes_of.values())


@pytest.mark.parametrize("tokens", [96, 320])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("number_format", [torch.float32, torch.bfloat16])
def test_what_autograd_keeps_is_predicted(tokens: int, checkpointing: bool, padded: bool, number_format: torch.dtype):
    made = network(checkpointing=checkpointing)
    made.get_base_model().to(number_format)
    for parameter in made.parameters():
        parameter.data = parameter.data.float() if parameter.requires_grad else parameter.data
    batch = Forward(ROWS, tokens, LABELS, padded)
    predicted = cost.saved_bytes(shape_of(made), batch, checkpointing=checkpointing, rank=4)
    assert predicted == pytest.approx(kept(made, tokens, padded=padded), rel=0.05)


def test_boundaries_of_7b_are_a_gibibyte_for_4096_tokens():
    kept_bytes = cost.saved_bytes(MISTRAL_7B, Forward(1, 4096), checkpointing=True)
    assert kept_bytes / 2**30 == pytest.approx(1.0, abs=0.12)


def test_a_step_keeps_every_forward_or_one():
    batches = [Forward(1, 4096), Forward(1, 1024)]
    settings = {"checkpointing": True, "num_trainable": 7_000_000}
    retained = cost.train_peak_bytes(MISTRAL_7B, batches, retained=True, **settings)
    cached = cost.train_peak_bytes(MISTRAL_7B, batches, retained=False, **settings)
    assert retained - cached == cost.saved_bytes(MISTRAL_7B, batches[1], checkpointing=True)
    alone = cost.train_peak_bytes(MISTRAL_7B, batches[:1], retained=True, **settings)
    assert alone == cached
    assert cached - cost.state_bytes(MISTRAL_7B, 7_000_000) > 4096 * 32 * 4096 * 2


def test_padding_brings_a_mask_of_each_layer():
    plain, padded = (cost.layer_bytes(MISTRAL_7B, 8192, masked=masked) for masked in (False, True))
    assert padded - plain == 2 * 8192 + 2 * 2 * (4096 - 1024)
    bare, masked = (cost.read_peak_bytes(MISTRAL_7B, Forward(2, 100, padded=padded), 0) for padded in (False, True))
    assert masked - bare == (1 + 2) * 2 * 100**2


def test_reading_holds_the_cache():
    few, many = (cost.read_peak_bytes(MISTRAL_7B, Forward(1, 8192), cached) for cached in (0, 8192))
    assert many - few == 2**30
    assert few > MISTRAL_7B.weight_bytes
