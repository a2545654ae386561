"""Vocabulary rows, the adapter's trainable set, logits at labels."""

import pytest
import torch

from pipeline.core import model
from tests.core import tiny
from tests.core.test_focus import views

LORA = {"rank": 8, "alpha": 16, "dropout": 0.0, "embedding": "lora", "norms": True}


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_old_ones_every_time(tied):
    networks = [tiny.network(tied=tied) for _ in range(2)]
    for seed, network in enumerate(networks):
        torch.manual_seed(seed)
        model.resize(network, 50)
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        one, other = (getattr(network, layer)().weight for network in networks)
        assert one.shape[0] == 50
        torch.testing.assert_close(one[48], one[:48].mean(dim=0))
        assert torch.equal(one, other)


def test_a_vocabulary_that_has_the_rows_is_left_alone():
    network = tiny.network()
    before = network.get_input_embeddings().weight.clone()
    model.resize(network, 40)
    assert torch.equal(before, network.get_input_embeddings().weight)


def test_trainable_parameters_are_exactly_lora_embedding_and_norms():
    adapted = model.add_adapter(tiny.network(), **LORA)
    trainable = {name.removeprefix("base_model.model.") for name, p in adapted.named_parameters() if p.requires_grad}
    expected = {"model.norm.modules_to_save.default.weight"}
    expected |= {f"model.embed_tokens.lora_embedding_{side}.default" for side in "AB"}
    for layer in range(2):
        prefix = f"model.layers.{layer}"
        expected |= {
            f"{prefix}.self_attn.{name}_proj.lora_{side}.default.weight" for name in "qkvo" for side in "AB"
        } | {f"{prefix}.{name}_layernorm.modules_to_save.default.weight" for name in ("input", "post_attention")}
    assert trainable == expected
    attention, rest = model.parameter_groups(adapted)
    assert len(attention) == 2 * 4 * 2
    assert len(rest) == 2 + 1 + 2 * 2


def test_without_embedding_and_norms_only_the_projections_are_trained():
    adapted = model.add_adapter(tiny.network(), **(LORA | {"embedding": "none", "norms": False}))
    attention, rest = model.parameter_groups(adapted)
    assert len(attention) == 16
    assert rest == []


def test_logits_at_labels_are_rows_of_the_full_logits():
    network = tiny.network()
    full, _ = views()
    logits = model.logits_at_labels(network, model.hidden_states(network, full), full)
    reference = network(input_ids=full.input_ids_BL, attention_mask=full.mask_BL).logits
    torch.testing.assert_close(logits, reference[full.row_E[full.label_examples_N], full.label_positions_N])


def test_trainable_parameters_of_a_bf16_base_are_fp32():
    adapted = model.add_adapter(tiny.network(dtype=torch.bfloat16), **LORA)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}
