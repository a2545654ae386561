"""Vocabulary rows, and logits at labels."""

import pytest
import torch
from transformers import AutoConfig

from pipeline.model import causal_lm, generation, prefix_cache, teacher
from pipeline.runtime.errors import ConfigError
from tests.model import families, tiny
from tests.training.test_objective import views


@pytest.mark.parametrize("tied", [False, True])
def test_new_rows_are_the_mean_of_the_old_ones_every_time(tied):
    networks = [tiny.network(tied=tied) for _ in range(2)]
    for seed, network in enumerate(networks):
        torch.manual_seed(seed)
        causal_lm.resize(network, 50)
    for layer in ("get_input_embeddings", "get_output_embeddings"):
        one, other = (getattr(network, layer)().weight for network in networks)
        assert one.shape[0] == 50
        torch.testing.assert_close(one[48], one[:48].mean(dim=0))
        assert torch.equal(one, other)


def test_a_vocabulary_that_has_the_rows_is_left_alone():
    network = tiny.network()
    before = network.get_input_embeddings().weight.clone()
    causal_lm.resize(network, 40)
    assert torch.equal(before, network.get_input_embeddings().weight)


def test_logits_at_labels_are_rows_of_the_full_logits():
    network = tiny.network()
    full, _ = views()
    logits = causal_lm.logits_at_labels(network, causal_lm.hidden_states(network, full), full)
    reference = network(input_ids=full.input_ids_BL, attention_mask=full.mask_BL).logits
    torch.testing.assert_close(logits, reference[full.row_E[full.label_examples_N], full.label_positions_N])


@pytest.mark.parametrize("name", families.FAMILIES)
def test_rows_are_refused_where_the_model_cannot_read_them_and_said_where_it_was_not_trained_on_them(name):
    """The scaled positions of Llama 3 are 2 x 64."""
    limit = 128 if name == "Llama 3, tied" else 12
    network = families.network(name, max_position_embeddings=12)
    ids = torch.full((1, limit + 1), 7)
    assert causal_lm.length_warning(network.config, limit) == ""
    network(ids[:, :limit])
    if name == "GPT-2":
        with pytest.raises(IndexError):
            network(ids)
        with pytest.raises(ConfigError, match=r"^model.max_tokens is 13, .* gpt2 .* 12 positions; .* 1 to 12:"):
            causal_lm.length_warning(network.config, limit + 1)
    else:
        assert network(ids).logits.isfinite().all()
        said = causal_lm.length_warning(network.config, limit + 1)
        assert f"model.max_tokens {limit + 1} is longer than the {limit} tokens that the base was trained on" in said


@pytest.mark.parametrize(
    ("kind", "scaling", "trained_on"),
    [
        ("llama", {"rope_type": "linear", "factor": 4.0}, 2_048),
        ("llama", {"rope_type": "dynamic", "factor": 2.0}, 1_024),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}, 2_048),
        ("qwen2", {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        ("phi3", {"rope_type": "default"}, 512),
    ],
)
def test_scaled_positions_count_as_trained_on(kind, scaling, trained_on):
    config = AutoConfig.for_model(kind, **families.SHAPE, rope_parameters={"rope_theta": 10_000.0, **scaling})
    assert causal_lm.length_warning(config, trained_on) == ""
    assert f"than the {trained_on:,} tokens" in causal_lm.length_warning(config, trained_on + 1)


def test_answers_end_at_the_last_position_of_a_table():
    network = families.network("GPT-2", max_position_embeddings=12)
    given = [[7] * length for length in (3, 9, 12)]
    settings = {"eos_ids": [tiny.EOS], "banned_ids": [tiny.EOS], "max_new_tokens": 8, "batch_tokens": 100}
    batched = generation.generate(network, given, pad_id=tiny.PAD, **settings)
    assert [len(output) for output in batched] == [8, 3, 0]
    prefix, *rest = [[7], *(prefix_cache.Suffix(prompt[1:]) for prompt in given)]
    assert [found.output_ids for found in prefix_cache.answer(network, prefix, rest, **settings)] == batched
    taught = teacher.teach(network, given, num_top=2, pad_id=tiny.PAD, **settings)
    assert [found.output_ids for found in taught] == batched  # no EOS behind an answer that was cut
