"""A stroke of the pen as a few points."""

from __future__ import annotations

import numpy as np

FEWEST, MOST = 3, 10
# One point for each such share of the image's longer side that the stroke is long.
SPACING = 1 / 16


def stroke_points(stroke: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Points along a stroke, each far from the others.

    The stroke is sampled at equal lengths, one sample a pixel or finer. Its middle comes first,
    then always the sample that is farthest from all before, so that a stroke which crosses itself
    or comes back does not put two points in one place.

    Args:
        stroke: [n, 2] x and y of its corners.
        size: (height, width) of the image.

    Returns:
        [k, 2]; 3 <= k <= 10 by length, and k = 1 for a dot.
    """
    samples, length = equal_lengths(stroke)
    if length == 0:
        return stroke[:1].astype(float)
    wanted = int(np.clip(np.ceil(length / (SPACING * max(size))), FEWEST, MOST))
    return samples[farthest_first(samples, wanted)]


def equal_lengths(stroke: np.ndarray) -> tuple[np.ndarray, float]:
    """A stroke's samples [m, 2] at equal lengths along it, m >= 21 and odd, and its length."""
    stroke = np.asarray(stroke, float)
    steps = np.hypot(*np.diff(stroke, axis=0).T)
    along = np.concatenate([[0.0], np.cumsum(steps)])
    length = float(along[-1])
    places = np.linspace(0, length, 2 * max(MOST, int(np.ceil(length / 2))) + 1)
    samples = [np.interp(places, along, stroke[:, axis]) for axis in (0, 1)]
    return np.stack(samples, axis=1), length


def farthest_first(samples: np.ndarray, count: int) -> np.ndarray:
    """Indices of samples: the middle one, then each time the one farthest from those chosen."""
    chosen = [len(samples) // 2]
    nearest = np.full(len(samples), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.hypot(*(samples - samples[chosen[-1]]).T))
        chosen.append(int(nearest.argmax()))
    return np.array(chosen)
