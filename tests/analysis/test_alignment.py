"""Alignment by literal vectors."""

import math

import pytest
import torch

from pipeline.analysis import representations


def test_own_views_equal_and_others_orthogonal():
    found = representations.align(torch.eye(3) * 5, torch.eye(3))
    assert found.alignment == pytest.approx(1.0)
    assert found.alignment_others == pytest.approx(0.0)
    assert found.in_batch_accuracy == 1.0
    assert found.uniformity == pytest.approx(-4.0)  # every distance is sqrt 2


def test_swapped_views_match_nothing():
    found = representations.align(torch.eye(2), torch.eye(2)[[1, 0]])
    assert found.alignment == pytest.approx(0.0)
    assert found.alignment_others == pytest.approx(1.0)
    assert found.in_batch_accuracy == 0.0


def test_uniformity_is_the_log_of_the_mean_kernel():
    angles = torch.tensor([0.0, math.pi / 3, math.pi])
    points = torch.stack([angles.cos(), angles.sin()], dim=1)
    squared = [(points[i] - points[j]).square().sum().item() for i, j in ((0, 1), (0, 2), (1, 2))]
    expected = math.log(sum(math.exp(-2 * value) for value in squared) / 3)
    assert representations.align(points, points).uniformity == pytest.approx(expected, rel=1e-5)


def test_each_view_has_its_own_uniformity_and_each_example_its_cosine():
    full, masked = torch.eye(3), torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [3.0, 0, 0]])
    found = representations.align(full, masked)
    assert (found.uniformity, found.uniformity_masked) == pytest.approx((-4.0, 0.0))
    assert representations.cosines(full, masked) == pytest.approx([1.0, 0.0, 0.0])
    assert found.alignment == pytest.approx(1 / 3)
