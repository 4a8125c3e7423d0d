"""Boxes: two notations, overlap, and generalised overlap (Rezatofighi et al., CVPR 2019).

Every overlap broadcasts: `iou(a, b)` of two [N, 4] is pair by pair, `iou(a[:, None], b)` is all
against all. Boxes without area overlap nothing; the result is never nan.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_AREA = 1e-9


def to_corners(boxes: Tensor) -> Tensor:
    """(centre x, centre y, width, height) to (left, top, right, bottom), [..., 4], float32."""
    centre, size = boxes.float().split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def to_centres(corners: Tensor) -> Tensor:
    """(left, top, right, bottom) to (centre x, centre y, width, height), [..., 4], float32."""
    first, second = corners.float().split(2, dim=-1)
    return torch.cat([(first + second) / 2, second - first], dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of corner boxes [..., 4] -> [...], in 0..1."""
    shared, union = _shared_and_union(first, second)
    return shared / union.clamp(min=SMALLEST_AREA)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of corner boxes [..., 4] -> [...], in -1..1.

    IoU minus the share of the smallest box around both that neither covers, so that boxes apart
    have a gradient too.
    """
    shared, union = _shared_and_union(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    bare = (hull - union) / hull.clamp(min=SMALLEST_AREA)
    return shared / union.clamp(min=SMALLEST_AREA) - bare


def _shared_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    shared = (high - low).clamp(min=0).prod(dim=-1)
    return shared, _area(first) + _area(second) - shared


def _area(corners: Tensor) -> Tensor:
    return (corners[..., 2] - corners[..., 0]) * (corners[..., 3] - corners[..., 1])
