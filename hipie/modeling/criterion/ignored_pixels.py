"""Queries and points that give no loss, since the ground truth of their pixels is not known."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hipie.structures import IgnoredPixels

MAX_IGNORED_SHARE = 0.5
"""Queries without an object give no class loss if more of their box is ignored."""


def ignored_share(ignored: IgnoredPixels, boxes: Tensor) -> Tensor:
    """Compute the share of the pixels of every box that are ignored, by an integral image.

    Args:
        ignored: of B images.
        boxes: [B, Q, 4] cxcywh in 0..1 of the decoder's frame; parts outside the canvas are cut.

    Returns:
        [B, Q] float32; 0 for boxes without a pixel.
    """
    height, width = ignored.values.shape[-2:]
    sums = F.pad((ignored.values > 0).float(), (1, 0, 1, 0)).cumsum(1).cumsum(2).flatten(1)
    scale = (ignored.frames * ignored.frames.new_tensor([width, height]))[:, None]
    center, half = boxes[..., :2].float(), boxes[..., 2:].float() / 2
    left, top = ((center - half) * scale).round().long().unbind(-1)
    right, bottom = ((center + half) * scale).round().long().unbind(-1)
    left, right = left.clamp(0, width), right.clamp(0, width)
    top, bottom = top.clamp(0, height), bottom.clamp(0, height)

    def sum_before(y: Tensor, x: Tensor) -> Tensor:
        return sums.gather(1, y * (width + 1) + x)

    inside = sum_before(bottom, right) - sum_before(top, right)
    inside = inside - sum_before(bottom, left) + sum_before(top, left)
    return inside / ((right - left) * (bottom - top)).clamp(min=1)


def labelled_points(ignored: IgnoredPixels, image_index: Tensor, points: Tensor) -> Tensor:
    """Compute which points are on pixels with ground truth.

    Args:
        ignored: of B images.
        image_index: [n] the image of each row of points.
        points: [n, P, 2], x and y in 0..1 of the canvas.

    Returns:
        [n, P] float32, 1 = the pixel is labelled, 0 = it is not.
    """
    height, width = ignored.unlabelled.shape[-2:]
    x = (points[..., 0] * width).long().clamp(0, width - 1)
    y = (points[..., 1] * height).long().clamp(0, height - 1)
    index = (image_index[:, None] * height + y) * width + x
    return (~ignored.unlabelled.take(index)).float()
