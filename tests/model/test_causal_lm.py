"""Vocabulary rows, and logits at labels."""

import pytest
import torch

from pipeline.model import causal_lm
from tests.model import tiny
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
