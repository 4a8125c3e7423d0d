"""Label maps of regions: connected components, small regions, colours."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

LabelMap = NDArray[np.int32]
RGBImage = NDArray[np.uint8]


def lab_colors(image: RGBImage) -> NDArray[np.float32]:
    """Convert an image [H, W, 3] to CIELAB: L in 0..100, a and b in about -127..127."""
    lab: NDArray[np.float32] = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return lab


def color_gradient(colors: NDArray[Any]) -> NDArray[Any]:
    """Compute the largest gradient magnitude [H, W] (Sobel) over the channels of [H, W, C]."""
    from skimage.filters import sobel

    channels = [sobel(colors[..., channel].astype(float)) for channel in range(colors.shape[2])]
    gradient: NDArray[Any] = np.stack(channels).max(0)
    return gradient


def connected_regions(labels: NDArray[Any]) -> LabelMap:
    """Number the connected components (4 neighbours) of equal labels [H, W] from 0."""
    from skimage.measure import label

    components: LabelMap = label(labels, background=-1, connectivity=1).astype(np.int32) - 1
    return components


def absorb_small_regions(labels: LabelMap, min_pixels: int) -> LabelMap:
    """Give every pixel of a small region to the nearest large one, and number regions from 0.

    Args:
        labels: [H, W], from 0.
        min_pixels: regions with fewer pixels are small. Without a large one the largest stays.
    """
    from skimage.segmentation import expand_labels, relabel_sequential

    areas = np.bincount(labels.ravel())
    large = areas >= min_pixels
    if not large.any():
        large[areas.argmax()] = True
    kept = np.where(large[labels], labels + 1, 0)
    if not kept.all():
        kept = expand_labels(kept, distance=float(sum(labels.shape)))
    numbered: LabelMap = relabel_sequential(kept)[0].astype(np.int32) - 1
    return numbered
