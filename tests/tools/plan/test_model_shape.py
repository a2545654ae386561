"""A shape counts the weights that the model has, and a config.json of another kind is refused."""

from typing import Any

import pytest
from transformers import AutoConfig

from pipeline.retrieval import encoder
from pipeline.runtime.errors import ArtifactError
from pipeline.tools.plan import model_shape
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
    mistral, *contrievers = (
        model_shape.parse(model_shape._config(name, None, "setting"), 2, name) for name in model_shape.PUBLISHED
    )
    assert (mistral.weights, mistral.window) == (7_241_732_096, 4_096)
    for shape in contrievers:
        assert shape.weights == 108_394_752  # of 109.5 million: position embeddings, biases and pooler are not counted


@pytest.mark.parametrize("kind", encoder.MODEL_TYPES)
def test_every_encoder_that_can_score_has_a_shape(kind: str):
    made = AutoConfig.for_model(kind)
    shape = model_shape.parse({**made.to_dict(), "model_type": kind}, 4, kind)
    assert (shape.layers, shape.hidden) == (made.num_hidden_layers, made.hidden_size)
    assert (shape.heads, shape.mlp_matrices) == (made.num_attention_heads, 2)


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
