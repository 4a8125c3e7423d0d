"""Point sampling for mask losses, denser where a mask is uncertain (PointRend, CVPR 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

OVERSAMPLE_RATIO = 3
IMPORTANCE_RATIO = 0.75


def point_sample(masks: Tensor, points: Tensor) -> Tensor:
    """Sample mask logits at points, bilinear, 0 outside.

    Args:
        masks: [n, h, w].
        points: [n, P, 2], x and y in 0..1.

    Returns:
        [n, P].
    """
    grid = 2.0 * points[:, :, None] - 1.0
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0, :, 0]


def point_sample_masks(masks: Tensor, index: Tensor, points: Tensor) -> Tensor:
    """Sample boolean masks at points, bilinear, 0 outside, without a float copy of any mask.

    Args:
        masks: [M, H, W] bool, contiguous.
        index: [n] the mask of each row of points.
        points: [n, P, 2] or [1, P, 2], x and y in 0..1.

    Returns:
        [n, P] float32 in 0..1.
    """
    height, width = masks.shape[-2:]
    first = (index * (height * width))[:, None]
    left, right, from_left, from_right = _neighbours(points[..., 0], width)
    top, bottom, from_top, from_bottom = _neighbours(points[..., 1], height)
    flat = masks.flatten()

    def line(y: Tensor) -> Tensor:
        start = first + y * width
        return from_left * flat.take(start + left) + from_right * flat.take(start + right)

    return from_top * line(top) + from_bottom * line(bottom)


def _neighbours(position: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Two nearest pixels of each position in 0..1 of an axis, and their interpolation weights."""
    exact = position.float() * size - 0.5
    low = exact.floor()
    share = exact - low
    inside_low, inside_high = low >= 0, low < size - 1
    low = low.long()
    return (
        low.clamp(0, size - 1),
        (low + 1).clamp(0, size - 1),
        (1 - share) * inside_low,
        share * inside_high,
    )


@torch.no_grad()
def uncertain_points(masks: Tensor, num_points: int) -> Tensor:
    """Draw points for the mask losses of n predictions.

    Three times as many points are sampled at random; three quarters of `num_points` are those of
    them whose logits are nearest to 0, the rest is sampled anew. Uses torch's global generator.

    Args:
        masks: [n, h, w] logits.
        num_points: points a mask.

    Returns:
        [n, num_points, 2], x and y in 0..1.
    """
    candidates = torch.rand(len(masks), num_points * OVERSAMPLE_RATIO, 2, device=masks.device)
    num_uncertain = int(IMPORTANCE_RATIO * num_points)
    uncertainty = -point_sample(masks, candidates).abs()
    selected = uncertainty.topk(num_uncertain, dim=1, sorted=False).indices
    uncertain = candidates.gather(1, selected[:, :, None].expand(-1, -1, 2))
    random = torch.rand(len(masks), num_points - num_uncertain, 2, device=masks.device)
    return torch.cat([uncertain, random], dim=1)
