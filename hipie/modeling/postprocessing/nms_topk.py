"""Selection of instances: class-aware non-maximum suppression and top-k of (query, class) pairs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import batched_nms

from hipie.box_ops import box_cxcywh_to_xyxy
from hipie.modeling.device_transfer import to_device


def class_aware_nms(scores: Tensor, boxes: Tensor, threshold: float = 0.7) -> Tensor:
    """Suppress overlapping queries whose best class is the same.

    Args:
        scores: [Q, K]; the best class of a query counts.
        boxes: [Q, 4] cxcywh.
        threshold: intersection over union above which the query with the lower score is removed.

    Returns:
        Indices of the remaining queries by decreasing score.
    """
    best, labels = scores.float().max(-1)
    return batched_nms(box_cxcywh_to_xyxy(boxes), best, labels, threshold)


def topk_query_class_pairs(
    scores: Tensor, limit: int = 100, allowed: Sequence[bool] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Select the (query, class) pairs with the highest scores; a query may have several classes.

    Args:
        scores: [Q, K].
        limit: maximum number of pairs.
        allowed: [K] classes that may be selected; by default all.

    Returns:
        Query [n], class [n] and score [n] by decreasing score.
    """
    if allowed is None:
        columns = torch.arange(scores.shape[1], device=scores.device)
    else:
        classes = [index for index, is_allowed in enumerate(allowed) if is_allowed]
        columns = to_device(torch.tensor(classes, dtype=torch.long), scores.device)
    flat = scores[:, columns].flatten()
    top, index = flat.topk(min(limit, len(flat)))
    width = max(len(columns), 1)
    return index // width, columns[index % width], top
