"""k-means clustering of dense features, and masks of the clusters."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.ndimage import label
from torch import Tensor

from hipie.errors import InputError

MAX_ITERATIONS = 50
# Components below this share of the image are left out.
MIN_AREA_SHARE = 0.002


def kmeans_groups(features: Tensor, clusters: int, restarts: int = 10) -> Tensor:
    """Cluster unit features by the best of several deterministic k-means++ runs.

    Args:
        features: [P, C].
        clusters: maximum number; limited by the number of different features.
        restarts: number of runs.

    Returns:
        [P] long; groups are numbered by size, the largest is 0.

    Raises:
        InputError: for fewer than one cluster or run.
    """
    from scipy.cluster.vq import ClusterError, kmeans2

    if clusters < 1 or restarts < 1:
        raise InputError(
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


def cluster_masks(
    features: Tensor,
    grid: tuple[int, int],
    size: tuple[int, int],
    clusters: int = 4,
    restarts: int = 10,
) -> Tensor:
    """Compute the connected components of clusters, for several numbers of clusters.

    Args:
        features: [h * w, C] of the cells of a grid.
        grid: (h, w).
        size: (height, width) of the image.
        clusters: numbers of clusters are 2, 3, ..., `clusters`.
        restarts: see `kmeans_groups`.

    Returns:
        Masks [N, *size] bool, each once; at least one.
    """
    by_content: dict[bytes, npt.NDArray[np.bool_]] = {}
    for count in range(2, max(2, clusters) + 1):
        groups = kmeans_groups(features, count, restarts).unflatten(0, grid).cpu()
        for group in groups.unique():
            labels, number = label((groups == group).numpy())
            for component in (labels == index for index in range(1, number + 1)):
                by_content[component.tobytes()] = _resize(component, size)
    masks = [mask for mask in by_content.values() if mask.mean() >= MIN_AREA_SHARE]
    stacked = np.stack(masks or [np.ones(size, bool)])
    return torch.from_numpy(stacked).to(features.device)


def _resize(mask: npt.NDArray[np.bool_], size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Resize with nearest neighbour."""
    rows = np.arange(size[0]) * mask.shape[0] // size[0]
    columns = np.arange(size[1]) * mask.shape[1] // size[1]
    return mask[rows[:, None], columns]
