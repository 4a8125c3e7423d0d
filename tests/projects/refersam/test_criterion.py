"""Losses of ReferSAM against values of the authors' functions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from refersam.modeling.criterion import LOSS_NAMES, MaskCriterion, cross_entropy, dice


def test_losses_equal_the_published_values():
    logits = torch.from_numpy(2 * np.random.default_rng(0).standard_normal((2, 12544))).float()
    labels = torch.from_numpy(np.random.default_rng(1).random((2, 12544))).float()
    assert float(cross_entropy(logits, labels)) == pytest.approx(1.066460, abs=1e-6)
    assert float(dice(logits, labels).mean()) == pytest.approx(0.500438, abs=1e-6)


def test_dice_of_an_empty_target():
    assert float(dice(torch.full((1, 100), -50.0), torch.zeros(1, 100)).mean()) == pytest.approx(0)
    losses = float(dice(torch.full((1, 100), 50.0), torch.zeros(1, 100)).mean())
    assert losses == pytest.approx(1 - 1 / 101)


def test_losses_order_correct_uncertain_and_incorrect_masks():
    """Compare confident correct, uncertain, and confident incorrect masks."""
    target = torch.zeros(1, 64, 64)
    target[:, 20:40, 20:40] = 1
    confident = (target - 0.5) * 40
    coarse = torch.nn.functional.avg_pool2d(confident[:, None], 4)
    correct = MaskCriterion(2000)(confident, coarse, target)
    uncertain = MaskCriterion(2000)(confident * 0, coarse * 0, target)
    incorrect = MaskCriterion(2000)(-confident, -coarse, target)
    assert set(correct) == set(LOSS_NAMES)
    for name in LOSS_NAMES:
        assert float(correct[name]) < float(uncertain[name]) < float(incorrect[name])
    assert float(uncertain["loss_mask"]) == pytest.approx(np.log(2), rel=1e-5)


def test_losses_are_weighted():
    logits, coarse = torch.randn(1, 32, 32), torch.randn(1, 1, 8, 8)
    target = torch.ones(1, 32, 32)
    losses = []
    for weights in ((1, 1, 1, 1), (2, 3, 0, 5)):
        torch.manual_seed(0)
        losses.append(MaskCriterion(50, weights)(logits, coarse, target))
    for name, factor in zip(LOSS_NAMES, (2, 3, 0, 5)):
        torch.testing.assert_close(losses[1][name], factor * losses[0][name])


def test_losses_are_float32_under_autocast():
    logits, coarse = torch.randn(1, 32, 32).bfloat16(), torch.randn(1, 1, 8, 8).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        losses = MaskCriterion(50)(logits, coarse, torch.ones(1, 32, 32))
    assert all(term.dtype == torch.float32 for term in losses.values())


@pytest.mark.parametrize(("points", "weights"), [(50, (1, 1)), (2, (1, 1, 1, 1))])
def test_invalid_arguments_raise_an_error(points, weights):
    with pytest.raises(ValueError, match="MODEL.REFERSAM.LOSS"):
        MaskCriterion(points, weights)
