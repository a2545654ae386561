"""InfoNCE and causal LM against slow, obvious versions."""

import math

import pytest
import torch
from torch.nn import functional

from pipeline.training import losses


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


def test_causal_lm_is_the_sum_over_the_label_tokens_of_each_example():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3.0)], [0.0, 0.0]])
    found = losses.causal_lm(logits, torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2]), 3)
    assert found.tolist() == pytest.approx([math.log(4 / 3), 0.0, 2 * math.log(2)], rel=1e-6)


def test_excluded_pairs_stand_in_no_denominator():
    z_full, z_masked = torch.eye(3)[:, :2] + 0.1, torch.eye(3)[:, :2] - 0.2
    excluded = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    found = losses.info_nce(z_full, z_masked, 0.5, excluded).loss
    cosine = functional.normalize(z_full, dim=1) @ functional.normalize(z_masked, dim=1).T / 0.5
    terms = []
    for matrix in (cosine, cosine.T):
        for i in range(3):
            allowed = [j for j in range(3) if not excluded[i, j]]
            terms.append(torch.logsumexp(matrix[i, allowed], dim=0) - matrix[i, i])
    assert found.item() == pytest.approx(sum(terms).item() / 6, rel=1e-6)


def slow_divergence(teacher, model):
    return sum(p * (math.log(p) - math.log(q)) for p, q in zip(teacher, model, strict=True) if p > 0)


def distributions(num, vocab, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num, vocab, generator=generator, dtype=dtype) * 2


@pytest.mark.parametrize("num_top", [1, 3, 11])
def test_divergence_counts_the_likeliest_tokens_and_all_others_as_one(num_top):
    logits, teacher = distributions(4, 11, seed=0), distributions(4, 11, seed=1).log_softmax(dim=1)
    top = teacher.topk(num_top, dim=1)
    examples = torch.tensor([1, 0, 1, 1])
    found = losses.divergence(logits, top.indices, top.values, examples, 2)
    expected = [0.0, 0.0]
    for row, (p, q) in enumerate(zip(teacher.exp(), logits.softmax(dim=1), strict=True)):
        kept = top.indices[row]
        pairs = [[x[kept].tolist(), max(1 - x[kept].sum().item(), 0.0)] for x in (p, q)]
        lumped = [[*known, rest] if num_top < 11 else known for known, rest in pairs]
        expected[examples[row]] += slow_divergence(*lumped)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_divergence_of_a_model_from_itself_is_nothing_and_pulls_nowhere():
    logits = distributions(3, 50, seed=2, dtype=torch.float32).requires_grad_()
    top = logits.detach().log_softmax(dim=1).topk(8, dim=1)
    found = losses.divergence(logits, top.indices, top.values, torch.arange(3), 3)
    assert found.abs().max() < 1e-5
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.abs().max() < 1e-5


def test_divergence_is_finite_where_the_teacher_is_sure_or_the_model_is():
    teacher = torch.tensor([[0.0, -200.0], [-0.1, -2.5]])
    logits = torch.tensor([[-300.0, 0.0, 0.0], [300.0, 0.0, 0.0]], requires_grad=True)
    found = losses.divergence(logits, torch.tensor([[0, 1], [0, 1]]), teacher, torch.arange(2), 2)
    assert found.isfinite().all() and found[0] > 100
    (gradient,) = torch.autograd.grad(found.sum(), logits)
    assert gradient.isfinite().all()
