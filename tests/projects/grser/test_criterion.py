"""Losses against PyTorch's own and against sums written out."""

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


def test_cross_entropy_with_the_weights_of_its_classes(masks):
    """sum w_y (-log p_y) / sum w_y over all pixels."""
    logits, target = (one.double().numpy() for one in masks)
    chance = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    weights = np.where(target > 0, 1.1, 0.9)
    right = np.where(target > 0, chance[:, 1], chance[:, 0])
    wanted = -(weights * np.log(right)).sum() / weights.sum()
    assert float(mask_loss(*masks, "ce", (0.9, 1.1))) == pytest.approx(wanted, rel=1e-5)


def test_binary_cross_entropy_and_dice(masks):
    logits, target = (one.double().numpy() for one in masks)
    chance = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    entropy = -np.where(target > 0, np.log(chance), np.log(1 - chance)).mean()
    assert target.any((1, 2)).tolist() == [True, False, True]
    chance, target = chance[[0, 2]], target[[0, 2]]
    shared, total = (chance * target).sum((1, 2)), (chance + target).sum((1, 2))
    wanted = entropy + (1 - (2 * shared + 1) / (total + 1)).mean()
    assert float(mask_loss(*masks, "bce_dice", (0.9, 1.1))) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("kind", ["ce", "bce_dice"])
def test_right_masks_cost_nothing_empty_ones_too(kind):
    target = torch.zeros(2, 8, 8)
    target[0, 2:5, 2:5] = 1
    logits = torch.stack([-60 * (target - 0.5), 60 * (target - 0.5)], 1)
    assert float(mask_loss(logits, target, kind, (0.9, 1.1))) < 1e-4
    assert float(mask_loss(-logits, target, kind, (0.9, 1.1))) > 10


@pytest.mark.parametrize("margin", [1e-6, 1.0, 100.0])
def test_the_triplet_is_pytorchs(margin):
    torch.manual_seed(1)
    z, said, denied = (torch.randn(6, 4) for _ in range(3))
    positive = torch.tensor([True, False, True, True, False, False])
    near, far = (z - said).norm(dim=1), (z - denied).norm(dim=1)
    wanted = triplet_margin_with_distance_loss(
        z,
        torch.where(positive[:, None], said, denied),
        torch.where(positive[:, None], denied, said),
        distance_function=lambda a, b: (a - b).norm(dim=1),
        margin=margin,
    )
    torch.testing.assert_close(triplet_loss(near, far, positive, margin), wanted)


def test_negatives_can_be_left_out_of_the_triplet():
    near, far = torch.tensor([1.0, 2.0, 9.0]), torch.tensor([2.0, 1.0, 0.0])
    shown = torch.tensor([True, True, False])
    found = triplet_loss(near, far, shown, 0.5, negatives=False)
    assert float(found) == triplet_loss(near[:2], far[:2], shown[:2], 0.5) == 0.75
    assert float(triplet_loss(near[2:], far[2:], shown[2:], 0.5, negatives=False)) == 0


def test_the_triplet_of_nobody_is_zero():
    none = torch.zeros(0)
    assert float(triplet_loss(none, none, none.bool(), 1.0)) == 0


def test_images_that_are_far_enough_on_the_right_side_pull_no_more():
    near = torch.tensor([0.0, 3.0, 0.0], requires_grad=True)
    far = torch.tensor([3.0, 0.0, 0.5], requires_grad=True)
    triplet_loss(near, far, torch.tensor([True, False, True]), 1.0).backward()
    assert near.grad.tolist() == pytest.approx([0, 0, 1 / 3])
    assert far.grad.tolist() == pytest.approx([0, 0, -1 / 3])


def test_heatmaps_are_pulled_to_either_side():
    torch.manual_seed(0)
    target = torch.zeros(2, 8, 8)
    target[0, :4, 2:7] = 1
    heat = torch.rand(2, 4, 4, requires_grad=True)
    anti = torch.rand(2, 4, 4, requires_grad=True)
    loss = heatmap_loss(heat, anti, target)
    share = target.double().numpy().reshape(2, 4, 2, 4, 2).mean((2, 4))
    chance = 1 / (1 + np.exp(-10 * (heat - anti).detach().double().numpy()))
    wanted = -(share * np.log(chance) + (1 - share) * np.log(1 - chance)).mean()
    assert loss.item() == pytest.approx(wanted, rel=1e-4)
    loss.backward()
    torch.testing.assert_close(heat.grad, -anti.grad)
    assert (heat.grad[1] > 0).all() and (heat.grad[0, :2, 1:3] < 0).all()
