"""Graph-based segmentation.

Felzenszwalb, Huttenlocher, "Efficient Graph-Based Image Segmentation", IJCV 2004, by scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from skimage import segmentation

from hipie.errors import InputError
from hipie_classical.modeling.label_maps import LabelMap, RGBImage

MIN_SIZE = 20


@dataclass(frozen=True)
class Felzenszwalb:
    """Regions whose inner differences are below those at their borders.

    Attributes:
        scale: higher values prefer larger regions.
        sigma: of the blur before, in pixels.
    """

    scale: float = 300.0
    sigma: float = 0.8

    def __post_init__(self) -> None:
        if self.scale <= 0 or self.sigma < 0:
            raise InputError(
                "MODEL.CLASSICAL.FELZENSZWALB needs a SCALE above 0 and a SIGMA of 0 or more, and "
                f"not {self.scale} and {self.sigma}"
            )

    def __call__(self, image: RGBImage) -> LabelMap:
        """Divide an image [H, W, 3] into regions [H, W], numbered from 0."""
        labels: LabelMap = segmentation.felzenszwalb(
            image, scale=self.scale, sigma=self.sigma, min_size=MIN_SIZE, channel_axis=2
        ).astype(np.int32)
        return labels
