"""Watershed of the colour gradient.

Beucher, Lantuejoul, "Use of Watersheds in Contour Detection", 1979; compact form by Neubert,
Protzel, ICPR 2014; by scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage.filters import gaussian
from skimage.segmentation import watershed

from hipie.errors import InputError
from hipie_classical.modeling.label_maps import LabelMap, RGBImage, color_gradient, lab_colors

BLUR = 1.0


@dataclass(frozen=True)
class Watershed:
    """Basins of the gradient of CIELAB around markers on a grid.

    Attributes:
        markers: their number.
        compactness: 0 is the plain watershed.
    """

    markers: int = 60
    compactness: float = 0.0

    def __post_init__(self) -> None:
        if self.markers < 1 or self.compactness < 0:
            raise InputError(
                "MODEL.CLASSICAL.WATERSHED needs 1 or more MARKERS and a COMPACTNESS of 0 or more, "
                f"and not {self.markers} and {self.compactness}"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0."""
        gradient = color_gradient(gaussian(lab_colors(image), BLUR, channel_axis=2))
        markers = min(self.markers, gradient.size)
        basins = watershed(gradient, markers=markers, compactness=self.compactness)
        labels: LabelMap = basins.astype(np.int32) - 1
        return labels
