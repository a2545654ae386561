"""Predicted bytes against the storages that autograd keeps on a small random Mistral."""

from typing import Any

import pytest
import torch

from pipeline.model import causal_lm
from pipeline.tools.plan import memory
from pipeline.tools.plan.memory import Pack
from pipeline.training import losses
from tests.tools.plan.test_cost import LABELS, MISTRAL_7B, ROWS, network, shape_of, view


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
    batch = Pack(ROWS, tokens, ROWS * LABELS, padded)
    predicted = memory.saved_bytes(shape_of(made), batch, checkpointing=checkpointing, rank=4)
    assert predicted == pytest.approx(kept(made, tokens, padded=padded), rel=0.05)


def test_boundaries_of_7b_are_a_gibibyte_for_4096_tokens():
    kept_bytes = memory.saved_bytes(MISTRAL_7B, Pack(1, 4096), checkpointing=True)
    assert kept_bytes / 2**30 == pytest.approx(1.0, abs=0.12)


def test_a_step_keeps_every_forward_or_one():
    batches = [Pack(1, 4096), Pack(1, 1024)]
    settings = {"checkpointing": True, "num_trainable": 7_000_000}
    retained = memory.train_peak_bytes(MISTRAL_7B, batches, retained=True, **settings)
    cached = memory.train_peak_bytes(MISTRAL_7B, batches, retained=False, **settings)
    assert retained - cached == memory.saved_bytes(MISTRAL_7B, batches[1], checkpointing=True)
    alone = memory.train_peak_bytes(MISTRAL_7B, batches[:1], retained=True, **settings)
    assert alone == cached
    assert cached - memory.state_bytes(MISTRAL_7B, 7_000_000) > 4096 * 32 * 4096 * 2


def test_padding_brings_a_mask_of_each_layer():
    plain, padded = (memory.layer_bytes(MISTRAL_7B, 8192, masked=masked) for masked in (False, True))
    assert padded - plain == 2 * 8192 + 2 * 2 * (4096 - 1024)
    assert memory.masked(MISTRAL_7B, Pack(2, 100))
    assert not memory.masked(MISTRAL_7B, Pack(2, 100, padded=False))
    assert not memory.masked(MISTRAL_7B, Pack(1, 100))


def test_reading_holds_the_cache():
    few, many = (memory.read_peak_bytes(MISTRAL_7B, Pack(1, 8192), cached) for cached in (0, 8192))
    assert many - few == 2**30
    assert few > MISTRAL_7B.weight_bytes
