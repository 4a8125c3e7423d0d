"""Losses of masks against formulas in float64, and the projection."""

from __future__ import annotations

import numpy as np
import torch

from hipie_reasoning.modeling.mask_losses import mask_losses
from hipie_reasoning.modeling.prompt_projection import build_prompt_projection


def lisa_losses(logits: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Losses of one mask as in LISA's paper and code, whose smoothing is 1e-6 after a scale."""
    p = 1 / (1 + np.exp(-logits))
    bce = -(target * np.log(p) + (1 - target) * np.log(1 - p)).mean()
    scaled, smoothing = p / 1000, 1e-6
    dice = 1 - (2 * (scaled * target).sum() + smoothing) / (
        scaled.sum() + target.sum() / 1000 + smoothing
    )
    return bce, dice


def test_losses_are_means_over_the_masks_of_all_images() -> None:
    rng = np.random.default_rng(0)
    shapes = [(2, 8, 9), (0, 5, 5), (1, 12, 7)]
    logits = [rng.normal(size=shape) * 2 for shape in shapes]
    targets = [(rng.random(shape) < 0.3).astype(float) for shape in shapes]
    targets[0][1] = 0  # without a pixel
    bce, dice = mask_losses(
        [torch.tensor(each) for each in logits], [torch.tensor(each) for each in targets]
    )
    masks = zip((m for each in logits for m in each), (m for each in targets for m in each))
    expected = np.array([lisa_losses(*pair) for pair in masks])
    assert expected.shape == (3, 2)
    np.testing.assert_allclose([float(bce), float(dice)], expected.mean(0), rtol=1e-5)


def test_without_a_mask_the_losses_are_0_and_have_a_gradient() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    bce, dice = mask_losses([logits], [torch.zeros(0, 4, 4)])
    (bce + dice).backward()
    assert float(bce) == float(dice) == 0


def test_projection_is_two_linear_layers() -> None:
    projection = build_prompt_projection(6, 3)
    assert [tuple(each.weight.shape) for each in (projection[0], projection[2])] == [(6, 6), (3, 6)]
    x = torch.randn(2, 6)
    hidden = (x @ projection[0].weight.t() + projection[0].bias).clamp(min=0)
    expected = hidden @ projection[2].weight.t() + projection[2].bias
    torch.testing.assert_close(projection(x), expected)
