"""Thresholds of brightness by Otsu's method.

Otsu, "A Threshold Selection Method from Gray-Level Histograms", IEEE Trans. SMC 1979, with several
thresholds (Liao et al., 2001), by scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.color import rgb2gray
from skimage.filters import threshold_multiotsu

from hipie.errors import InputError
from hipie_classical.modeling.label_maps import LabelMap, RGBImage, connected_regions


@dataclass(frozen=True)
class Otsu:
    """Connected components of classes of brightness.

    Attributes:
        classes: number of classes, 2 to 5; fewer for an image with fewer grey values.
    """

    classes: int = 3

    def __post_init__(self) -> None:
        if not 2 <= self.classes <= 5:
            raise InputError(f"MODEL.CLASSICAL.OTSU.CLASSES is {self.classes}; it has to be 2 to 5")

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0."""
        grey = np.round(rgb2gray(image) * 255).astype(np.uint8)
        classes = min(self.classes, len(np.unique(grey)))
        if classes < 2:
            return np.zeros(grey.shape, np.int32)
        return connected_regions(np.digitize(grey, threshold_multiotsu(grey, classes)))
