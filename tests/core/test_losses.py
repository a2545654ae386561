"""InfoNCE and causal LM against slow, obvious versions."""

import math

import pytest
import torch

from pipeline.core import losses


def slow_info_nce(z_full, z_masked, temperature):
    def cosine(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True)) / math.dist(a, [0] * len(a)) / math.dist(b, [0] * len(b))

    total = 0.0
    num = len(z_full)
    for i in range(num):
        for row in ([cosine(z_full[i], m) for m in z_masked], [cosine(f, z_masked[i]) for f in z_full]):
            exps = [math.exp(value / temperature) for value in row]
            total -= math.log(exps[i] / sum(exps)) / (2 * num)
    return total


@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_info_nce_agrees_with_the_slow_version(temperature):
    generator = torch.Generator().manual_seed(0)
    z_full, z_masked = torch.randn(2, 5, 7, generator=generator)
    contrast = losses.info_nce(z_full, z_masked, temperature)
    assert contrast.loss.item() == pytest.approx(
        slow_info_nce(z_full.tolist(), z_masked.tolist(), temperature), rel=1e-4
    )


def test_info_nce_is_symmetric_and_blind_to_length():
    z_full, z_masked = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(1))
    there = losses.info_nce(z_full, z_masked, 0.1).loss
    back = losses.info_nce(z_masked * 3, z_full, 0.1).loss
    torch.testing.assert_close(there, back)


def test_equal_views_that_differ_between_examples_are_matched():
    contrast = losses.info_nce(torch.eye(3), torch.eye(3), 0.05)
    assert contrast.in_batch_accuracy == 1
    assert contrast.alignment == 1
    assert contrast.alignment_others == 0
    assert contrast.loss < 1e-6


def test_a_batch_of_one_has_no_negatives():
    contrast = losses.info_nce(torch.ones(1, 3), torch.ones(1, 3), 0.05)
    assert contrast.loss == 0
    assert contrast.alignment_others == 0


def test_causal_lm_is_the_mean_over_label_tokens():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)]])
    expected = (math.log(2) + math.log(4 / 3)) / 2
    assert losses.causal_lm(logits, torch.tensor([0, 1])).item() == pytest.approx(expected, rel=1e-6)
