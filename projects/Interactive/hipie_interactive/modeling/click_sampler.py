"""Click sampling of the simulated user: the centre of the largest error region.

Sofiiuk et al., "Reviving Iterative Training with Mask Guidance for Interactive Segmentation", ICIP
2022, with integer squared distances, so that ties do not depend on rounding.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Click(NamedTuple):
    """A clicked pixel.

    Attributes:
        x, y: in pixels of the image.
        inside: whether it is a positive click, on the object.
    """

    x: int
    y: int
    inside: bool


def squared_distance_transform(region: np.ndarray) -> np.ndarray:
    """Compute the squared distance of a region's pixels to the nearest pixel outside it.

    Distances are rounded to integers, so that equal ones compare equal: OpenCV's differ in their
    last digits from call to call.

    Args:
        region: [H, W] bool; pixels beyond the image's border are outside.

    Returns:
        [H, W] int64; 0 outside the region.
    """
    padded = np.pad(region.astype(np.uint8), 1)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    return np.rint(np.square(distance, dtype=np.float64)).astype(np.int64)


def region_centre(region: np.ndarray) -> tuple[int, int]:
    """Return x and y of the centre of the largest inscribed circle; of several the first by rows.

    Raises:
        ValueError: if the region [H, W] is empty.
    """
    if not region.any():
        raise ValueError("an empty region has no centre")
    return _argmax_xy(squared_distance_transform(region))


def next_click(target: np.ndarray, mask: np.ndarray, clicked: np.ndarray) -> Click | None:
    """Sample the click of a simulated user on the largest error of a mask.

    False negatives and false positives are two regions. The pixel with the largest distance to
    the border of its region is clicked, positive on a false negative, else negative; of equal
    distances, the negative one.

    Args:
        target: [H, W] bool, ground truth.
        mask: [H, W] bool, prediction.
        clicked: [H, W] bool, pixels that must not be clicked again.

    Returns:
        The click; None if the mask has no error that is not clicked yet.
    """
    false_negative, false_positive = (
        squared_distance_transform(region) * ~clicked for region in (target & ~mask, mask & ~target)
    )
    inside = bool(false_negative.max() > false_positive.max())
    distances = false_negative if inside else false_positive
    if distances.max() == 0:
        return None
    x, y = _argmax_xy(distances)
    return Click(x, y, inside)


def _argmax_xy(values: np.ndarray) -> tuple[int, int]:
    y, x = np.unravel_index(int(values.argmax()), values.shape)
    return int(x), int(y)
