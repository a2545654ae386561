"""What the teacher says: its greedy answer, and its distribution along it."""

import numpy as np
import pytest
import torch

from pipeline.model import teacher
from tests.model import tiny

SETTINGS = {"max_new_tokens": 5, "eos_ids": [tiny.EOS], "pad_id": tiny.PAD, "banned_ids": [tiny.MASK, tiny.PAD]}


def prompts():
    generator = np.random.default_rng(0)
    return [generator.integers(4, 48, size=size).astype(np.int32) for size in (9, 4, 9, 13)]


@pytest.mark.parametrize("batch_tokens", [1, 30, 1000])
def test_it_says_its_likeliest_tokens_and_how_likely_they_are(batch_tokens):
    network = tiny.network(dtype=torch.float64)
    found = teacher.teach(network, prompts(), num_top=3, batch_tokens=batch_tokens, **SETTINGS)
    for prompt, said in zip(prompts(), found, strict=True):
        assert 1 <= len(said.output_ids) <= 5 and tiny.EOS not in said.output_ids[:-1]
        assert len(said.output_ids) == 5 or said.output_ids[-1] == tiny.EOS
        ids = torch.tensor([[*prompt.tolist(), *said.output_ids]])
        with torch.no_grad():
            log_probs = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].log_softmax(dim=-1)
        along = log_probs[len(prompt) - 1 : -1]
        top = along.topk(3, dim=-1)
        np.testing.assert_array_equal(said.top_ids_NK, top.indices.numpy())
        np.testing.assert_allclose(said.top_log_probs_NK, top.values.numpy(), rtol=1e-5)
        allowed = along.clone()
        allowed[:, [tiny.MASK, tiny.PAD]] = -torch.inf
        assert said.output_ids == allowed.argmax(dim=-1).tolist()


def test_more_likeliest_tokens_than_there_are_are_all_of_them():
    (said, *_) = teacher.teach(tiny.network(), prompts(), num_top=1000, batch_tokens=1000, **SETTINGS)
    assert said.top_ids_NK.shape == (len(said.output_ids), 48)
    np.testing.assert_allclose(np.exp(said.top_log_probs_NK).sum(axis=1), 1.0, rtol=1e-5)
