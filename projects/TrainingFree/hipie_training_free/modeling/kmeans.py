"""Groups of patches by k-means on DINO's features."""

from __future__ import annotations

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.vq import ClusterError, kmeans2
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from hipie_training_free.error import TrainingFreeError

STEPS = 50


def kmeans_groups(features: Tensor, clusters: int, restarts: int = 10) -> Tensor:
    """The best of several k-means++ runs over unit features; the same every time.

    Args:
        features: [P, C].
        clusters: at most so many; fewer where there are fewer different features.
        restarts: runs.

    Returns:
        [P] long, the largest group is 0.

    Raises:
        TrainingFreeError: for fewer than one cluster or run.
    """
    if clusters < 1 or restarts < 1:
        raise TrainingFreeError(
            f"k-means needs at least one cluster and one run, not {clusters} and {restarts}"
        )
    rows = F.normalize(features.float(), dim=1).cpu().double().numpy()
    clusters = min(clusters, len(np.unique(rows.round(6), axis=0)))
    best, least = np.zeros(len(rows), np.int64), np.inf
    for seed in range(restarts if clusters > 1 else 0):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                centres, groups = kmeans2(
                    rows, clusters, STEPS, minit="++", missing="raise", seed=seed
                )
            except ClusterError:
                continue  # a cluster lost all its rows; another run will not
        spread = float(((rows - centres[groups]) ** 2).sum())
        if spread < least - 1e-12:
            best, least = groups, spread
    order = np.argsort(-np.bincount(best), kind="stable")
    return torch.from_numpy(np.argsort(order)[best]).to(features.device)


def foreground_groups(groups: Tensor, attention: Tensor) -> list[int]:
    """Groups from the one that the class token looks at most, per patch, to the least.

    Args:
        groups: [P] long.
        attention: [P].
    """
    means = [float(attention[groups == one].mean()) for one in range(int(groups.max()) + 1)]
    return sorted(range(len(means)), key=lambda one: -means[one])


def border_share(groups: Tensor) -> Tensor:
    """[k] of every group on a grid [h, w] the share that lies on the image's border."""
    edge = torch.ones_like(groups, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    counts = torch.bincount(groups.flatten())
    return torch.bincount(groups[edge], minlength=len(counts)) / counts


def match_groups(confusion: np.ndarray) -> tuple[dict[int, int], float]:
    """The class of every group that makes the pixels agree most (Hungarian), and then the mIoU.

    Args:
        confusion: [groups, classes] pixels.

    Returns:
        Class by group, and the mean IoU over the classes, 0..1.
    """
    rows, columns = linear_sum_assignment(-confusion)
    agreed = confusion[rows, columns]
    union = confusion[rows].sum(1) + confusion[:, columns].sum(0) - agreed
    ious = np.zeros(confusion.shape[1])
    ious[columns] = agreed / np.maximum(union, 1)
    return dict(zip(rows.tolist(), columns.tolist(), strict=True)), float(ious.mean())
