"""The training step: what is exact, what is equal to what."""

import numpy as np
import pytest
import torch

from pipeline.core import batching, focus, masking, model
from tests.core import tiny

FOCUSED = focus.Objective(full=1.0, masked=1.0, contrastive=0.1, temperature=0.05, representation="last_prompt")


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
    full = batching.pad(
        [row[0] for row in rows], [np.arange(len(row[0])) for row in rows], [row[3] for row in rows], tiny.PAD
    )
    masked = [masking.masked_view(*row, mode, tiny.MASK) for row in rows]
    return full, batching.pad(
        [m.input_ids for m in masked], [m.position_ids for m in masked], [m.prompt_end for m in masked], tiny.PAD
    )


def gradients(network, output):
    network.zero_grad()
    output.loss.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


def test_skip_is_exactly_masks_that_are_not_attended():
    """Values and gradients in fp64; only the <mask> row itself may differ, since skip never reads it."""
    network = tiny.network(dtype=torch.float64)
    full, skip = views("skip")
    _, token = views("token")
    unattended = token._replace(attention_mask_BL=token.attention_mask_BL * (token.input_ids_BL != tiny.MASK))
    one, other = (focus.step(network, full, masked, FOCUSED) for masked in (skip, unattended))
    for name, value in one.logged.items():
        torch.testing.assert_close(value, other.logged[name], rtol=1e-10, atol=1e-12)
    grads, other_grads = gradients(network, one), gradients(network, other)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, other_grads[name], rtol=1e-8, atol=1e-10)


def test_gaps_in_positions_are_not_read_as_packed_sequences():
    """Without an explicit mask transformers cuts the context at each gap; our views always carry one."""
    network = tiny.network(dtype=torch.float64)
    _, skip = views("skip", num=1)
    hidden = model.hidden_states(network, skip)
    with torch.no_grad():
        cut = network.model(input_ids=skip.input_ids_BL, position_ids=skip.position_ids_BL, use_cache=False)
    assert (hidden - cut.last_hidden_state).abs().max() > 1e-3  # the trap is still there, so the mask is still needed
    shifted = skip._replace(input_ids_BL=skip.input_ids_BL.clone())
    shifted.input_ids_BL[0, 0] = 40
    assert (model.hidden_states(network, shifted)[0, -1] - hidden[0, -1]).abs().max() > 1e-6


def test_vanilla_is_the_plain_language_model_loss_of_transformers():
    network = tiny.network()
    full, _ = views()
    labels = torch.full_like(full.input_ids_BL, -100)
    for row, (start, end) in enumerate(zip(full.prompt_end_B, full.length_B, strict=True)):
        labels[row, start:end] = full.input_ids_BL[row, start:end]
    reference = network(input_ids=full.input_ids_BL, attention_mask=full.attention_mask_BL, labels=labels).loss
    torch.testing.assert_close(focus.step(network, full, None, focus.VANILLA).loss, reference)


def test_weight_zero_with_the_full_view_alone_is_bitwise_vanilla():
    network = tiny.network()
    full, masked = views()
    nothing_of_masked = FOCUSED._replace(masked=0.0, contrastive=0.0)
    ours = gradients(network, focus.step(network, full, masked, nothing_of_masked))
    vanilla = gradients(network, focus.step(network, full, None, focus.VANILLA))
    assert ours.keys() == vanilla.keys()
    for name, grad in ours.items():
        assert torch.equal(grad, vanilla[name]), name


def test_the_loss_is_the_weighted_sum_of_its_parts():
    network = tiny.network()
    full, masked = views()
    output = focus.step(network, full, masked, FOCUSED._replace(full=0.5, masked=2.0, contrastive=0.3))
    parts = output.logged
    torch.testing.assert_close(
        output.loss.detach(), 0.5 * parts["clm_full"] + 2.0 * parts["clm_masked"] + 0.3 * parts["info_nce"]
    )


def test_padding_changes_nothing():
    network = tiny.network(dtype=torch.float64)
    full, _ = views(num=3)
    together = focus.represent(model.hidden_states(network, full), full, "last_prompt")
    for row, (ids, _, _, prompt_end, _) in enumerate(examples(3)):
        alone = batching.pad([ids], [np.arange(len(ids))], [prompt_end], tiny.PAD)
        torch.testing.assert_close(
            focus.represent(model.hidden_states(network, alone), alone, "last_prompt")[0], together[row]
        )


@pytest.mark.parametrize("representation", ["last_prompt", "mean", "eos"])
def test_representations_read_the_places_they_name(representation):
    full, _ = views(num=2)
    hidden = torch.arange(full.input_ids_BL.numel(), dtype=torch.float32).reshape(*full.input_ids_BL.shape, 1)
    z = focus.represent(hidden, full, representation)
    for row in range(2):
        end, length = int(full.prompt_end_B[row]), int(full.length_B[row])
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
    changed.input_ids_BL[0, int(full.prompt_end_B[0])] = 7
    for representation, sees in (("last_prompt", False), ("mean", False), ("eos", True)):
        one, other = (focus.represent(model.hidden_states(network, v), v, representation) for v in (full, changed))
        assert torch.equal(one, other) is not sees
