"""Checks of COCO polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def is_polygon(points: Sequence[float]) -> bool:
    """Whether a flat list x, y, x, y, ... has at least three corners, all of them finite."""
    if len(points) < 6 or len(points) % 2 or not {int, float}.issuperset(map(type, points)):
        return False
    try:
        return math.isfinite(math.fsum(points))
    except (ValueError, OverflowError):  # Infinities of both signs; numbers beyond a float's.
        return False


def crosses_itself(points: Sequence[float]) -> bool:
    """Whether two sides of a closed polygon cross properly (touching does not count).

    Args:
        points: flat x, y, x, y, ... of N corners; N^2 comparisons.
    """
    corners = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    start, end = corners, np.roll(corners, -1, axis=0)
    side_of_start = _turn(start[:, None], end[:, None], start[None])
    side_of_end = _turn(start[:, None], end[:, None], end[None])
    apart = side_of_start * side_of_end < 0
    return bool((apart & apart.T).any())


def _turn(origin: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Sign of the turn from origin->end to origin->point."""
    along, towards = end - origin, point - origin
    return np.sign(along[..., 0] * towards[..., 1] - along[..., 1] * towards[..., 0])
