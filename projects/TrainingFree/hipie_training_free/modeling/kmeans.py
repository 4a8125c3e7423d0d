"""k-means clustering of DINO's patches."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hipie_training_free.error import TrainingFreeError

MAX_ITERATIONS = 50


def kmeans_groups(features: Tensor, clusters: int, restarts: int = 10) -> Tensor:
    """Cluster unit features by the best of several deterministic k-means++ runs.

    Args:
        features: [P, C].
        clusters: maximum number; limited by the number of different features.
        restarts: number of runs.

    Returns:
        [P] long; groups are numbered by size, the largest is 0.

    Raises:
        TrainingFreeError: for fewer than one cluster or run.
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    if clusters < 1 or restarts < 1:
        raise TrainingFreeError(
            f"k-means needs at least one cluster and one run, not {clusters} and {restarts}"
        )
    rows = F.normalize(features.float(), dim=1).cpu().double().numpy()
    clusters = min(clusters, len(np.unique(rows.round(6), axis=0)))
    best, lowest_inertia = np.zeros(len(rows), np.int64), np.inf
    for seed in range(restarts if clusters > 1 else 0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                centres, groups = kmeans2(
                    rows, clusters, MAX_ITERATIONS, minit="++", missing="raise", seed=seed
                )
            except ClusterError:
                continue  # a cluster became empty in this run
        inertia = float(((rows - centres[groups]) ** 2).sum())
        if inertia < lowest_inertia - 1e-12:
            best, lowest_inertia = groups, inertia
    order = np.argsort(-np.bincount(best), kind="stable")
    return torch.from_numpy(np.argsort(order)[best]).to(features.device)


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
