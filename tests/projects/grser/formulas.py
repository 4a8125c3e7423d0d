"""The group's modules once more, as loops over float64 arrays."""

from __future__ import annotations

import numpy as np


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors; lengths are at least 1e-6."""
    return float(a @ b / (max(np.linalg.norm(a), 1e-6) * max(np.linalg.norm(b), 1e-6)))


def language_heatmap(V: np.ndarray, words: np.ndarray) -> np.ndarray:
    """[N, C, H, W], [C] -> [N, H, W]."""
    n, _, h, w = V.shape
    found = np.zeros((n, h, w))
    for i, y, x in np.ndindex(n, h, w):
        found[i, y, x] = cosine(V[i, :, y, x], words)
    return found


def prototypes(V: np.ndarray, M: np.ndarray) -> np.ndarray:
    """[N, C, H, W], [N, H, W] -> [N, C]."""
    return np.stack([(m * v).sum((1, 2)) / m.size for v, m in zip(V, M, strict=True)])


def visual_heatmaps(V: np.ndarray, p: np.ndarray) -> np.ndarray:
    """[N, C, H, W], [K, C] -> [N, K, H, W]."""
    return np.stack([language_heatmap(V, one) for one in p], axis=1)


def hierarchy(p: np.ndarray, words: np.ndarray, anti: np.ndarray) -> list[int]:
    """Positions, most trusted first."""
    near = [float(np.sqrt(((one - words) ** 2).sum())) for one in p]
    far = [float(np.sqrt(((one - anti) ** 2).sum())) for one in p]
    nearest = sorted(range(len(p)), key=lambda i: (near[i], i))
    farthest = sorted(range(len(p)), key=lambda i: (-far[i], i))
    return sorted(
        range(len(p)),
        key=lambda i: (nearest.index(i) + farthest.index(i), near[i] - far[i], i),
    )


def layer_norm(x: np.ndarray) -> np.ndarray:
    """Over the last axis, no scales."""
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
