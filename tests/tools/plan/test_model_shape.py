"""A shape counts the weights that the model has, and a config.json of another kind is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, MistralConfig

from pipeline.model import lora
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.plan import cost, model_shape
from tests.model import families
from tests.tools.plan.test_cost import CONFIG_7B, MISTRAL_7B, network, shape_of


def test_the_shape_counts_the_weights_that_the_model_has():
    for embedding in ("lora", "mask_token", "full", "none"):
        made = network(embedding=embedding)
        trained = sum(parameter.numel() for parameter in made.parameters() if parameter.requires_grad)
        assert shape_of(made).trainable(4, embedding=embedding, norms=True) == trained
    made = network(adapter=False)
    assert shape_of(made).weights == sum(parameter.numel() for parameter in made.parameters())
    assert MISTRAL_7B.weights == 7_241_732_096
    assert MISTRAL_7B.trainable(8, embedding="none", norms=False) == 6_815_744
    assert MISTRAL_7B.cache_bytes == 131_072


def test_the_sizes_of_the_published_models_are_known_without_a_network():
    mistral, *encoders = (
        model_shape.parse(model_shape._config(name, None, "setting"), 2, name) for name in model_shape.PUBLISHED
    )
    assert (mistral.weights, mistral.window) == (7_241_732_096, 4_096)
    for shape in encoders:
        assert shape.weights == 108_394_752  # of 109.5 million: position embeddings, biases and pooler are not counted


@pytest.mark.parametrize("kind", model_shape.ENCODERS)
def test_every_encoder_that_can_score_has_a_shape(kind: str):
    made = AutoConfig.for_model(kind)
    shape = model_shape.parse({**made.to_dict(), "model_type": kind}, 4, kind)
    assert (shape.layers, shape.hidden) == (made.num_hidden_layers, made.hidden_size)
    assert shape.heads == made.num_attention_heads
    assert shape.matrix_weights == 4 * shape.hidden**2 + 2 * shape.hidden * shape.intermediate


def test_a_window_that_is_not_used_is_none():
    config = {**CONFIG_7B, "model_type": "qwen2", "use_sliding_window": False}
    assert model_shape.parse(config, 2, "Qwen").window is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "x: model_type is 'mamba'; the cost is known for llama, mistral"),
        ({"hidden_size": None}, "x: hidden_size is None; whole numbers"),
        ({"num_attention_heads": 0}, "x: num_attention_heads is 0; whole numbers"),
        ({"num_hidden_layers": True, "vocab_size": "9"}, "x: num_hidden_layers is True, vocab_size is '9'; "),
    ],
)
def test_a_config_of_another_kind_is_refused(change: dict[str, Any], message: str):
    with pytest.raises(ArtifactError) as caught:
        model_shape.parse(CONFIG_7B | change, 2, "x")
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_decoder_without_a_formula_is_measured(name: str):
    """FLOPs of a forward are those that torch counts at another length, trained and held weights those of the model."""
    made = families.network(name, "eager", experts="batched_mm")
    shape = model_shape.measure(made.config, 4)
    assert shape.weights == sum(parameter.numel() for parameter in made.parameters())
    ids = torch.zeros((1, 100), dtype=torch.long)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made(input_ids=ids, logits_to_keep=1)
    assert cost.forward_flops(shape, 100, labels=1, padded=True) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    adapted = lora.add_adapter(made, rank=4, alpha=8, dropout=0.0, embedding="lora", norms=True, mask_id=3)
    trained = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    assert shape.trainable(4, embedding="lora", norms=True) == trained


def test_the_measured_shape_of_mistral_is_that_of_the_formula():
    config = MistralConfig(**{**CONFIG_7B, "sliding_window": None})
    measured = model_shape.measure(config, 2)
    assert replace(measured, matrix_weights=MISTRAL_7B.matrix_weights) == MISTRAL_7B
    assert measured.matrix_weights == pytest.approx(MISTRAL_7B.matrix_weights, rel=1e-6)
