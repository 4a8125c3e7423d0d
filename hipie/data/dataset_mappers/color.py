"""Photometric distortion of training images: brightness, contrast, saturation and hue."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

MAX_BRIGHTNESS = 32.0
CONTRAST = SATURATION = (0.5, 1.5)
MAX_HUE = 0.1
"""18 of the 180 steps of the published program's colour circle."""


def distort_colors(rng: np.random.Generator, image: NDArray[Any]) -> NDArray[np.uint8]:
    """Distort the colours of an image as SSD does (Liu et al., ECCV 2016, section 3.6).

    Each of four steps is taken with probability 1/2: a number of -32..32 is added; all values are
    multiplied by 0.5..1.5, with equal chance here or at the end; the saturation is multiplied by
    0.5..1.5; the hue is rotated by at most a tenth of the circle.

    Args:
        rng: generator; the number of its draws is always the same.
        image: uint8 [H, W, 3], RGB.

    Returns:
        The same shape.
    """
    brightness, contrast, saturation, hue, last = rng.random(5) < 0.5
    added = rng.uniform(-MAX_BRIGHTNESS, MAX_BRIGHTNESS)
    factor, saturation_factor = rng.uniform(*CONTRAST), rng.uniform(*SATURATION)
    rotation = rng.uniform(-MAX_HUE, MAX_HUE)
    if brightness:
        image = _clipped(image + added)
    if contrast and not last:
        image = _clipped(image * factor)
    if saturation or hue:
        distorted = Image.fromarray(image)
        if saturation:
            distorted = functional.adjust_saturation(distorted, saturation_factor)
        if hue:
            distorted = functional.adjust_hue(distorted, rotation)
        image = np.asarray(distorted)
    if contrast and last:
        image = _clipped(image * factor)
    return image


def _clipped(image: NDArray[Any]) -> NDArray[np.uint8]:
    rounded: NDArray[np.uint8] = image.round().clip(0, 255).astype(np.uint8)
    return rounded
