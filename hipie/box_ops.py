"""Boxes: conversions between formats, IoU, generalised IoU, and bounding boxes of masks.

IoUs broadcast: `box_iou(a, b)` of two [N, 4] is pairwise by row, `box_iou(a[:, None], b)` compares
all with all. Boxes without area have IoU 0; results are never nan.
"""

from __future__ import annotations

import torch
from torch import Tensor

MIN_AREA = 1e-9


def box_cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Boxes (centre x, centre y, width, height) as (x1, y1, x2, y2), [..., 4], float32."""
    center, size = boxes.float().split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def box_xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Boxes (x1, y1, x2, y2) as (centre x, centre y, width, height), [..., 4], float32."""
    first, second = boxes.float().split(2, dim=-1)
    return torch.cat([(first + second) / 2, second - first], dim=-1)


def box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of xyxy boxes [..., 4] -> [...], in 0..1."""
    intersection, union = _intersection_and_union(first, second)
    return intersection / union.clamp(min=MIN_AREA)


def generalized_box_iou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of xyxy boxes [..., 4] -> [...], in -1..1.

    IoU minus the share of the smallest enclosing box that neither box fills, so that disjoint
    boxes have a gradient too.
    """
    intersection, union = _intersection_and_union(first, second)
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    hull = (high - low).clamp(min=0).prod(dim=-1)
    empty_share = (hull - union) / hull.clamp(min=MIN_AREA)
    return intersection / union.clamp(min=MIN_AREA) - empty_share


def masks_to_boxes(masks: Tensor) -> Tensor:
    """Bounding boxes of masks in pixels, as Detectron2's `BitMasks.get_bounding_boxes`.

    Args:
        masks: [N, H, W] bool.

    Returns:
        [N, 4] float32 xyxy, right and bottom edges exclusive; zeros for empty masks.
    """
    columns, rows = masks.any(dim=1), masks.any(dim=2)
    edges = [_first_and_last(columns), _first_and_last(rows)]
    low = torch.stack([first for first, _ in edges], dim=1)
    high = torch.stack([last for _, last in edges], dim=1)
    return torch.cat([low, high], dim=1).float()


def _first_and_last(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First occupied position and one past the last, [N, n] bool -> two [N] int64; 0 if none."""
    size = occupied.shape[1]
    position = torch.arange(size, device=occupied.device)
    last = torch.where(occupied, position + 1, 0).amax(1)
    first = torch.where(occupied, position, size).amin(1)
    return torch.where(last > 0, first, 0), last


def _intersection_and_union(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    intersection = (high - low).clamp(min=0).prod(dim=-1)
    return intersection, _area(first) + _area(second) - intersection


def _area(boxes: Tensor) -> Tensor:
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])
