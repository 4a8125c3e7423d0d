"""Where a user who sees the mistakes of a mask would click next."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Click(NamedTuple):
    """A pixel, and whether it belongs to the object."""

    x: int
    y: int
    inside: bool


def depth(region: np.ndarray) -> np.ndarray:
    """How far each pixel lies inside a region.

    Args:
        region: [H, W] bool.

    Returns:
        [H, W] int64: the squared Euclidean distance to the nearest pixel that is not of the region;
        what lies outside the image is not. 0 outside the region. As whole numbers, equal depths
        are equal: OpenCV's distances differ in their last digits, from one call to the next.
    """
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.rint(np.square(distance, dtype=np.float64)).astype(np.int64)


def deepest(region: np.ndarray) -> tuple[int, int]:
    """x, y of the centre of a largest circle inside a region; of several the topmost, leftmost.

    Raises:
        ValueError: if the region is empty.
    """
    if not region.any():
        raise ValueError("an empty region has no centre")
    return _first_maximum(depth(region))


def next_click(target: np.ndarray, mask: np.ndarray, clicked: np.ndarray) -> Click | None:
    """The simulated user's click: into the deepest mistake.

    What the mask lacks and what it has too much are two regions. Of both, the pixel that lies
    deepest is clicked: inside where the object is missing, outside where the mask is wrong; where
    both are as deep, outside. Pixels that were clicked before are passed over.

    Args:
        target: [H, W] bool, the object.
        mask: [H, W] bool, what the model says.
        clicked: [H, W] bool.

    Returns:
        None if there is no mistake left to click on.
    """
    missing, wrong = (depth(region) * ~clicked for region in (target & ~mask, mask & ~target))
    inside = missing.max() > wrong.max()
    chosen = missing if inside else wrong
    if chosen.max() == 0:
        return None
    return Click(*_first_maximum(chosen), bool(inside))


def _first_maximum(values: np.ndarray) -> tuple[int, int]:
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    return int(x), int(y)
