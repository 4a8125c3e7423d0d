"""k-means clustering of DINO's patches."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hipie.modeling.clustering import kmeans_groups

__all__ = ["border_share", "kmeans_groups", "match_groups", "rank_by_attention"]


def rank_by_attention(groups: Tensor, attention: Tensor) -> list[int]:
    """Sort groups by the mean attention of the class token to their patches, descending.

    Args:
        groups: [P] long.
        attention: [P].
    """
    means = [float(attention[groups == group].mean()) for group in range(int(groups.max()) + 1)]
    return sorted(range(len(means)), key=lambda group: -means[group])


def border_share(groups: Tensor) -> Tensor:
    """Share of each group's patches on the border of a grid [h, w]: [k]."""
    edge = torch.ones_like(groups, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    counts = torch.bincount(groups.flatten())
    return torch.bincount(groups[edge], minlength=len(counts)) / counts


def match_groups(confusion: np.ndarray) -> tuple[dict[int, int], float]:
    """Match groups to classes by Hungarian matching of pixels, and compute the mIoU.

    Args:
        confusion: [groups, classes] numbers of pixels.

    Returns:
        Class of each group, and the mean IoU over the classes in 0..1.
    """
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-confusion)
    intersection = confusion[rows, columns]
    union = confusion[rows].sum(1) + confusion[:, columns].sum(0) - intersection
    ious = np.zeros(confusion.shape[1])
    ious[columns] = intersection / np.maximum(union, 1)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True)), float(ious.mean())
