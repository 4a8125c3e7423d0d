"""Losses against PyTorch and against explicit formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import triplet_margin_with_distance_loss

from grser.modeling.criterion import heatmap_loss, mask_loss, triplet_loss


@pytest.fixture
def masks():
    torch.manual_seed(0)
    target = (torch.rand(3, 4, 5) > 0.6).float()
    target[1] = 0
    return torch.randn(3, 2, 4, 5), target


def test_cross_entropy_has_class_weights(masks):
    """The formula is sum w_y (-log p_y) / sum w_y over all pixels."""
    logits, target = (array.double().numpy() for array in masks)
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weights = np.where(target > 0, 1.1, 0.9)
    right = np.where(target > 0, probability[:, 1], probability[:, 0])
    expected = -(weights * np.log(right)).sum() / weights.sum()
    assert float(mask_loss(*masks, "ce", (0.9, 1.1))) == pytest.approx(expected, rel=1e-5)


def test_binary_cross_entropy_and_dice(masks):
    logits, target = (array.double().numpy() for array in masks)
    probability = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    entropy = -np.where(target > 0, np.log(probability), np.log(1 - probability)).mean()
    assert target.any((1, 2)).tolist() == [True, False, True]
    probability, target = probability[[0, 2]], target[[0, 2]]
    intersection, total = (probability * target).sum((1, 2)), (probability + target).sum((1, 2))
    expected = entropy + (1 - (2 * intersection + 1) / (total + 1)).mean()
    assert float(mask_loss(*masks, "bce_dice", (0.9, 1.1))) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["ce", "bce_dice"])
def test_correct_masks_have_zero_loss_also_empty_ones(kind):
    target = torch.zeros(2, 8, 8)
    target[0, 2:5, 2:5] = 1
    logits = torch.stack([-60 * (target - 0.5), 60 * (target - 0.5)], 1)
    assert float(mask_loss(logits, target, kind, (0.9, 1.1))) < 1e-4
    assert float(mask_loss(-logits, target, kind, (0.9, 1.1))) > 10


@pytest.mark.parametrize("margin", [1e-6, 1.0, 100.0])
def test_triplet_loss_equals_pytorch(margin):
    torch.manual_seed(1)
    z, expression, anti_expression = (torch.randn(6, 4) for _ in range(3))
    positive = torch.tensor([True, False, True, True, False, False])
    near, far = (z - expression).norm(dim=1), (z - anti_expression).norm(dim=1)
    expected = triplet_margin_with_distance_loss(
        z,
        torch.where(positive[:, None], expression, anti_expression),
        torch.where(positive[:, None], anti_expression, expression),
        distance_function=lambda a, b: (a - b).norm(dim=1),
        margin=margin,
    )
    torch.testing.assert_close(triplet_loss(near, far, positive, margin), expected)


def test_triplet_loss_without_negatives():
    near, far = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 1.0, 0.0])
    positive_images = torch.tensor([True, True, False])
    loss = triplet_loss(near, far, positive_images, 0.5, negatives=False)
    assert float(loss) == triplet_loss(near[:2], far[:2], positive_images[:2], 0.5) == 0.75
    assert float(triplet_loss(near[2:], far[2:], positive_images[2:], 0.5, negatives=False)) == 0


def test_triplet_loss_of_no_image_is_zero():
    none = torch.zeros(0)
    assert float(triplet_loss(none, none, none.bool(), 1.0)) == 0


def test_triplets_beyond_the_margin_have_no_gradient():
    near = torch.tensor([0.0, 3.0, 0.0], requires_grad=True)
    far = torch.tensor([3.0, 0.0, 0.5], requires_grad=True)
    triplet_loss(near, far, torch.tensor([True, False, True]), 1.0).backward()
    assert near.grad.tolist() == pytest.approx([0, 0, 1 / 3])
    assert far.grad.tolist() == pytest.approx([0, 0, -1 / 3])


def test_heatmap_loss_separates_target_and_background():
    torch.manual_seed(0)
    target = torch.zeros(2, 8, 8)
    target[0, :4, 2:7] = 1
    heat = torch.rand(2, 4, 4, requires_grad=True)
    anti = torch.rand(2, 4, 4, requires_grad=True)
    loss = heatmap_loss(heat, anti, target)
    target_share = target.double().numpy().reshape(2, 4, 2, 4, 2).mean((2, 4))
    probability = 1 / (1 + np.exp(-10 * (heat - anti).detach().double().numpy()))
    expected = -(
        target_share * np.log(probability) + (1 - target_share) * np.log(1 - probability)
    ).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    loss.backward()
    torch.testing.assert_close(heat.grad, -anti.grad)
    assert (heat.grad[1] > 0).all() and (heat.grad[0, :2, 1:3] < 0).all()
