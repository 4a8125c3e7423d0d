"""Pointing game: whether the maximum of a heatmap is on the target (Zhang et al., ECCV 2016).

Without their tolerance of 15 pixels around the target.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def heatmap_maximum(heatmap: NDArray[Any], height: int, width: int) -> tuple[int, int]:
    """Return the pixel (row, column) of an image at the maximum of its heatmap.

    It is the centre of the maximal cell, at which the bilinearly resized heatmap is largest as
    well; of several maxima the first in reading order.

    Args:
        heatmap: [h, w], over the whole image.
        height: height of the image, pixels.
        width: width of the image, pixels.
    """
    rows, columns = heatmap.shape
    row, column = np.unravel_index(int(np.argmax(heatmap)), heatmap.shape)
    return int((row + 0.5) * height / rows), int((column + 0.5) * width / columns)


def points_at(heatmap: NDArray[Any], target: NDArray[Any]) -> bool:
    """Return whether the maximum of a heatmap [h, w] is on a target [H, W] of any type."""
    return bool(target[heatmap_maximum(heatmap, *target.shape)])
