"""GrabCut of region proposals.

Rother, Kolmogorov, Blake, "GrabCut: Interactive Foreground Extraction using Iterated Graph Cuts",
SIGGRAPH 2004, by OpenCV. In place of a user's box, each region of a coarser division that is mostly
inside of the image is probable foreground.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from hipie.errors import InputError
from hipie_classical.modeling.label_maps import LabelMap, RGBImage

# Regions with at least this share of the image's border, or of its area, are background.
MAX_BORDER_SHARE = 0.1
MAX_AREA_SHARE = 0.4
# Colour models have five Gaussians each.
MIN_PIXELS = 10


@dataclass(frozen=True)
class GrabCut:
    """Regions whose borders GrabCut has moved.

    Attributes:
        proposals: divides the image first.
        iterations: of every region.
        margin: width of the surroundings that may become foreground, a share of the box's sides.
    """

    proposals: Callable[[RGBImage], LabelMap]
    iterations: int = 3
    margin: float = 0.2

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.margin < 0:
            raise InputError(
                "MODEL.CLASSICAL.GRABCUT needs 1 or more ITERATIONS and a MARGIN of 0 or more, and "
                f"not {self.iterations} and {self.margin}"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0.

        Smaller regions take pixels from larger ones.
        """
        labels = self.proposals(image)
        result = labels.copy()
        areas = np.bincount(labels.ravel())
        for region in np.argsort(-areas, kind="stable").tolist():
            mask = labels == region
            if areas[region] < MIN_PIXELS or _is_background(mask):
                continue
            grown = self._cut(image, mask)
            if grown.any():
                result[grown] = region
        numbers: LabelMap = np.unique(result, return_inverse=True)[1].reshape(labels.shape)
        return numbers.astype(np.int32)

    def _cut(self, image: RGBImage, region: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Foreground [H, W] of the image around a region."""
        height, width = region.shape
        rows, columns = np.flatnonzero(region.any(1)), np.flatnonzero(region.any(0))
        down = round(self.margin * len(rows)) + 1
        across = round(self.margin * len(columns)) + 1
        # A frame of certain background around the surroundings, where the image has one.
        window = (
            slice(max(rows[0] - 2 * down, 0), min(rows[-1] + 2 * down + 1, height)),
            slice(max(columns[0] - 2 * across, 0), min(columns[-1] + 2 * across + 1, width)),
        )
        inner = np.zeros_like(region)
        inner[
            max(rows[0] - down, 0) : rows[-1] + down + 1,
            max(columns[0] - across, 0) : columns[-1] + across + 1,
        ] = True
        state = np.where(region, cv2.GC_PR_FGD, np.where(inner, cv2.GC_PR_BGD, cv2.GC_BGD))
        trimap = np.ascontiguousarray(state[window], dtype=np.uint8)
        if (trimap == cv2.GC_PR_FGD).all():
            return region
        models = np.zeros((2, 1, 65), np.float64)
        cv2.setRNGSeed(0)
        cv2.grabCut(
            np.ascontiguousarray(image[window]),
            trimap,
            None,
            models[0],
            models[1],
            self.iterations,
            cv2.GC_INIT_WITH_MASK,
        )
        foreground = np.zeros_like(region)
        foreground[window] = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        return foreground


def _is_background(mask: NDArray[np.bool_]) -> bool:
    """Whether a region is too large, or has too much of the image's border, to be an object."""
    border = np.concatenate([mask[0], mask[-1], mask[1:-1, 0], mask[1:-1, -1]])
    return bool(border.mean() >= MAX_BORDER_SHARE or mask.mean() >= MAX_AREA_SHARE)
