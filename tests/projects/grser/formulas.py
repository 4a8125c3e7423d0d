"""Reference implementation of the group modules, as loops over float64 arrays."""

from __future__ import annotations

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine of two vectors, with norms of at least 1e-6."""
    return float(a @ b / (max(np.linalg.norm(a), 1e-6) * max(np.linalg.norm(b), 1e-6)))


def language_heatmap(V: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """[N, C, H, W], [C] -> [N, H, W]."""
    n, _, h, w = V.shape
    heatmaps = np.zeros((n, h, w))
    for i, y, x in np.ndindex(n, h, w):
        heatmaps[i, y, x] = cosine(V[i, :, y, x], expression)
    return heatmaps


def prototypes(V: np.ndarray, M: np.ndarray) -> np.ndarray:
    """[N, C, H, W], [N, H, W] -> [N, C]."""
    return np.stack([(m * v).sum((1, 2)) / m.size for v, m in zip(V, M, strict=True)])


def visual_heatmaps(V: np.ndarray, p: np.ndarray) -> np.ndarray:
    """[N, C, H, W], [K, C] -> [N, K, H, W]."""
    return np.stack([language_heatmap(V, vector) for vector in p], axis=1)


def hierarchy(p: np.ndarray, expression: np.ndarray, anti_expression: np.ndarray) -> list[int]:
    """Indices of prototypes, most reliable first."""
    distance = [float(np.sqrt(((vector - expression) ** 2).sum())) for vector in p]
    anti_distance = [float(np.sqrt(((vector - anti_expression) ** 2).sum())) for vector in p]
    by_distance = sorted(range(len(p)), key=lambda i: (distance[i], i))
    by_anti_distance = sorted(range(len(p)), key=lambda i: (-anti_distance[i], i))
    return sorted(
        range(len(p)),
        key=lambda i: (
            by_distance.index(i) + by_anti_distance.index(i),
            distance[i] - anti_distance[i],
            i,
        ),
    )


def layer_norm(x: np.ndarray) -> np.ndarray:
    """Layer norm over the last axis without affine parameters."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
