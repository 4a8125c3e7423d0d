"""Region growing from the smoothest pixels.

Adams, Bischof, "Seeded Region Growing", IEEE Trans. PAMI 1994, describe growth from given seeds.
Here each next seed is the pixel with the smallest gradient that is in no region, and its region has
all connected pixels within a tolerance of the seed's colour (OpenCV's flood fill).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from hipie.errors import InputError
from hipie_classical.modeling.label_maps import LabelMap, RGBImage, color_gradient

FILLED, NEW = 1, 255
BLUR = (5, 5)


@dataclass(frozen=True)
class RegionGrowing:
    """Regions within a tolerance of the colours of their seeds.

    Attributes:
        tolerance: largest difference from the seed in each channel of 8-bit CIELAB.
    """

    tolerance: int = 12

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance <= 255:
            raise InputError(
                f"MODEL.CLASSICAL.REGION_GROWING.TOLERANCE is {self.tolerance}; it has to be 0 to "
                "255"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0."""
        lab = cv2.cvtColor(cv2.GaussianBlur(image, BLUR, 0), cv2.COLOR_RGB2LAB)
        height, width = lab.shape[:2]
        order = np.argsort(color_gradient(lab), axis=None, kind="stable")
        labels = np.full((height, width), -1, np.int32)
        filled = np.zeros((height + 2, width + 2), np.uint8)
        flags = 4 | cv2.FLOODFILL_FIXED_RANGE | cv2.FLOODFILL_MASK_ONLY | (NEW << 8)
        tolerance = (self.tolerance,) * 3
        regions = 0
        for y, x in zip(*np.unravel_index(order, labels.shape), strict=True):
            if labels[y, x] >= 0:
                continue
            seed = (int(x), int(y))
            *_, box = cv2.floodFill(lab, filled, seed, 0, tolerance, tolerance, flags)
            left, top, columns, rows = box
            part = filled[top + 1 : top + 1 + rows, left + 1 : left + 1 + columns]
            new = part == NEW
            labels[top : top + rows, left : left + columns][new] = regions
            part[new] = FILLED
            regions += 1
        return labels
