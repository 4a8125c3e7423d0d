"""Which queries become instances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import batched_nms, box_convert


@dataclass(frozen=True)
class Selection:
    """n chosen (query, class) pairs, best first.

    Attributes:
        queries: [n] int64; a query can be chosen with several classes.
        classes: [n] int64.
        scores: [n] float32, falling.
    """

    queries: Tensor
    classes: Tensor
    scores: Tensor


def suppress(boxes: Tensor, scores: Tensor, threshold: float = 0.7) -> Tensor:
    """Class-aware non-maximum suppression with every query's best class.

    Args:
        boxes: [Q, 4] cxcywh.
        scores: [Q, K].
        threshold: IoU above which the lower score goes.

    Returns:
        Indices of the survivors by falling score.
    """
    best, label = scores.max(-1)
    corners = box_convert(boxes.float(), "cxcywh", "xyxy")
    return batched_nms(corners, best, label, threshold)


def best_pairs(scores: Tensor, survivors: Tensor, count: int = 100) -> Selection:
    """The best (query, class) pairs of the surviving queries; scores [Q, K]."""
    flat = scores[survivors].flatten()
    top, place = flat.topk(min(count, len(flat)))
    rows = torch.div(place, scores.shape[1], rounding_mode="floor")
    return Selection(survivors[rows], place % scores.shape[1], top)
