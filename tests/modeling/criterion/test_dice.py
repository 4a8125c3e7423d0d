"""Dice and cross entropy of masks against the formulas in double precision."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from hipie.modeling.criterion.dice import dice, pairwise_cross_entropy, pairwise_dice


def random_masks(rows, points, seed):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(rows, points, generator=generator), torch.rand(
        rows, points, generator=generator
    )


def test_dice_follows_the_formula():
    logits, targets = random_masks(5, 80, 0)
    p, g = logits.double().sigmoid(), targets.double()
    wanted = 1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)
    torch.testing.assert_close(dice(logits, targets).double(), wanted, atol=1e-6, rtol=1e-5)


def test_all_against_all_holds_the_pairs():
    logits, targets = random_masks(6, 70, 1)
    torch.testing.assert_close(pairwise_dice(logits, targets).diagonal(), dice(logits, targets))


def test_cross_entropy_of_all_pairs():
    logits, targets = random_masks(4, 60, 2)
    logits[0, :3] = torch.tensor([300.0, -300.0, 0.0])
    wanted = torch.stack(
        [
            F.binary_cross_entropy_with_logits(
                logits.double(), t.double().expand_as(logits), reduction="none"
            ).mean(1)
            for t in targets
        ],
        dim=1,
    )
    found = pairwise_cross_entropy(logits, targets)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)


def test_a_perfect_mask_costs_nothing_and_an_opposite_one_nearly_all():
    target = torch.tensor([[1.0] * 40 + [0.0] * 40])
    sure = 50 * (2 * target - 1)
    assert dice(sure, target) < 1e-6
    assert dice(-sure, target) > 0.98


def test_an_empty_mask_is_learnt_too():
    logits = torch.zeros(1, 30, requires_grad=True)
    dice(logits, torch.zeros(1, 30)).sum().backward()
    assert (logits.grad > 0).all()
