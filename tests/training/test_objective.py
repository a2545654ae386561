"""Representations, and the traps of a forward; the gradient of a step: test_gradients.py."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.model import causal_lm, collator
from pipeline.training import objective
from pipeline.views import masking
from tests.model import tiny

FOCUSED = objective.Objective(full=1.0, masked=1.0, contrastive=0.1, temperature=0.05, representation="last_prompt")


def examples(num=3, seed=0):
    """Full views of four chunks of three to six tokens; one chunk kept."""
    rng = np.random.default_rng(seed)
    for _ in range(num):
        lengths = rng.integers(3, 7, size=4)
        starts = np.concatenate(([2], 2 + np.cumsum(lengths)[:-1])).astype(np.int32)
        ends = (starts + lengths).astype(np.int32)
        prompt_end = int(ends[-1]) + 3
        ids = rng.integers(4, 48, size=prompt_end + 3).astype(np.int32)
        ids[0], ids[-1] = tiny.BOS, tiny.EOS
        yield ids, starts, ends, prompt_end, np.arange(4) == rng.integers(4)


def views(mode="token", num=3, seed=0):
    rows = list(examples(num, seed))
    full = collator.pad(
        [row[0] for row in rows], [np.arange(len(row[0])) for row in rows], [row[3] for row in rows], tiny.PAD
    )
    masked = [masking.masked_view(*row, mode, tiny.MASK) for row in rows]
    return full, collator.pad(
        [m.input_ids for m in masked], [m.position_ids for m in masked], [m.prompt_end for m in masked], tiny.PAD
    )


def test_gaps_in_positions_are_not_read_as_packed_sequences():
    """Without an explicit mask transformers cuts the context at each gap; our views always carry one."""
    network = tiny.network(dtype=torch.float64)
    _, skip = views("skip", num=1)
    hidden = causal_lm.hidden_states(network, skip)
    with torch.no_grad():
        cut = network.model(input_ids=skip.input_ids_BL, position_ids=skip.position_ids_BL, use_cache=False)
    assert (hidden - cut.last_hidden_state).abs().max() > 1e-3  # the trap is still there, so the mask is still needed
    shifted = skip._replace(input_ids_BL=skip.input_ids_BL.clone())
    shifted.input_ids_BL[0, 0] = 40
    assert (causal_lm.hidden_states(network, shifted)[0, -1] - hidden[0, -1]).abs().max() > 1e-6


def test_padding_changes_nothing():
    network = tiny.network(dtype=torch.float64)
    full, _ = views(num=3)
    together = objective.represent(causal_lm.hidden_states(network, full), full, "last_prompt")
    for row, (ids, _, _, prompt_end, _) in enumerate(examples(3)):
        alone = collator.pad([ids], [np.arange(len(ids))], [prompt_end], tiny.PAD)
        torch.testing.assert_close(
            objective.represent(causal_lm.hidden_states(network, alone), alone, "last_prompt")[0], together[row]
        )


@pytest.mark.parametrize("representation", ["last_prompt", "mean", "eos"])
def test_representations_read_the_places_they_name(representation):
    full, _ = views(num=2)
    hidden = torch.arange(full.input_ids_BL.numel(), dtype=torch.float32).reshape(*full.input_ids_BL.shape, 1)
    z = objective.represent(hidden, full, representation)
    for row in range(2):
        end, length = int(full.prompt_end_E[row]), int(full.end_E[row])
        expected = {
            "last_prompt": hidden[row, end - 1],
            "eos": hidden[row, length - 1],
            "mean": hidden[row, :end].mean(0),
        }
        torch.testing.assert_close(z[row], expected[representation])


def test_only_eos_sees_the_answer():
    network = tiny.network()
    full, _ = views(num=1)
    changed = full._replace(input_ids_BL=full.input_ids_BL.clone())
    changed.input_ids_BL[0, int(full.prompt_end_E[0])] = 7
    for representation, sees in (("last_prompt", False), ("mean", False), ("eos", True)):
        one, other = (
            objective.represent(causal_lm.hidden_states(network, v), v, representation) for v in (full, changed)
        )
        assert torch.equal(one, other) is not sees


@pytest.mark.parametrize("representation", ["last_prompt", "mean", "eos"])
@pytest.mark.parametrize("mode", ["token", "skip"])
def test_representations_without_labels_are_the_same_ones(representation, mode):
    encoder = objective.Encoder(tiny.network(dtype=torch.float64), FOCUSED._replace(representation=representation))
    for view in views(mode, num=3):
        torch.testing.assert_close(encoder(view, with_labels=False).z_ED, encoder(view).z_ED, rtol=1e-12, atol=1e-12)


def test_representations_without_labels_leave_out_most_of_the_last_layers_mlp():
    network = tiny.network()
    full, _ = views(num=3)
    mlp = network.config.hidden_size * network.config.intermediate_size * 3 * 2  # FLOPs of one token
    head = network.config.hidden_size * network.config.vocab_size * 2
    counted = []
    for with_labels in (True, False):
        with FlopCounterMode(display=False) as counter:
            objective.Encoder(network, FOCUSED)(full, with_labels=with_labels)
        counted.append(counter.get_total_flops())
    left_out = mlp * (full.input_ids_BL.numel() - len(full.row_E)) + head * len(full.labels_N)
    assert counted[0] - counted[1] == left_out
