"""Which queries, and which of their classes, become instances."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms


def corners(boxes: Tensor) -> Tensor:
    """[..., 4] cxcywh -> xyxy, in float32."""
    centre, size = boxes.float().split(2, dim=-1)
    return torch.cat([centre - size / 2, centre + size / 2], dim=-1)


def class_aware_nms(scores: Tensor, boxes: Tensor, threshold: float = 0.7) -> Tensor:
    """Non-maximum suppression among queries whose best class is the same.

    Args:
        scores: [Q, K]; the best class of a query counts.
        boxes: [Q, 4] cxcywh.
        threshold: intersection over union above which the lower score goes.

    Returns:
        Indices of the queries that stay, by falling score.
    """
    best, labels = scores.float().max(-1)
    return batched_nms(corners(boxes), best, labels, threshold)


def topk_query_class_pairs(
    scores: Tensor, limit: int = 100, allowed: Sequence[bool] | Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The highest (query, class) pairs; one query may come with several classes.

    Args:
        scores: [Q, K].
        limit: how many pairs at most.
        allowed: [K] the classes that may be chosen; all by default.

    Returns:
        query [n], class [n] and score [n], by falling score.
    """
    columns = torch.arange(scores.shape[1], device=scores.device)
    if allowed is not None:
        columns = columns[torch.as_tensor(allowed, dtype=torch.bool, device=scores.device)]
    flat = scores[:, columns].flatten()
    found, index = flat.topk(min(limit, len(flat)))
    width = max(len(columns), 1)
    return index // width, columns[index % width], found
