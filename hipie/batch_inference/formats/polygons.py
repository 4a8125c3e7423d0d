"""One polygon for a mask, also with holes and several components."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def mask_to_polygon(mask: NDArray[Any]) -> NDArray[Any]:
    """Convert a mask to one polygon, whose fill by the even-odd rule is the mask.

    The polygon runs through the centres of the pixels at the border. Further components and holes
    are joined by lines there and back between the nearest points: a line is one pixel wide where a
    program fills polygons with their outline, as `cv2.fillPoly` does.

    Args:
        mask: [H, W] bool.

    Returns:
        [N, 2] int, x and y of pixels; N is 0 for an empty mask.
    """
    from scipy.spatial import cKDTree

    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return np.zeros((0, 2), np.int64)
    rings = [contour[:, 0].astype(np.int64) for contour in contours]
    rings.sort(key=len, reverse=True)
    polygon = rings.pop(0)
    while rings:
        tree = cKDTree(polygon)
        nearest = [tree.query(ring) for ring in rings]
        position = int(np.argmin([distances.min() for distances, _ in nearest]))
        distances, targets = nearest[position]
        start = int(np.argmin(distances))
        end = int(targets[start])
        ring = rings.pop(position)
        joined = np.concatenate([ring[start:], ring[: start + 1]])
        polygon = np.concatenate([polygon[: end + 1], joined, polygon[end:]])
    return polygon
