"""Photometric distortion in the ranges of SSD."""

from __future__ import annotations

import colorsys

import numpy as np

from hipie.data.dataset_mappers.color import distort_colors


def distorted(image: np.ndarray, count: int = 400) -> np.ndarray:
    return np.stack([distort_colors(np.random.default_rng(seed), image) for seed in range(count)])


def test_grey_changes_by_brightness_and_contrast_only() -> None:
    """A grey of 100 becomes at least (100 - 32) / 2 and at most (100 + 32) * 1.5."""
    images = distorted(np.full((2, 2, 3), 100, np.uint8))
    assert (images == images[:, :1, :1, :1]).all()
    values = images[:, 0, 0, 0]
    assert 34 <= values.min() < 50 and 170 < values.max() <= 198
    assert 0.15 < (values == 100).mean() < 0.35  # neither of both: 1/4


def test_hue_turns_by_a_tenth_of_the_circle_at_most() -> None:
    images = distorted(np.full((1, 1, 3), (120, 60, 60), np.uint8))
    pixels = images[:, 0, 0] / 255.0
    hues = np.array([colorsys.rgb_to_hsv(*pixel)[0] for pixel in pixels])
    turned = np.minimum(hues, 1 - hues)
    assert 0.08 < turned.max() < 0.115
    assert 0.4 < (turned < 0.01).mean() < 0.75
    saturations = np.array([colorsys.rgb_to_hsv(*pixel)[1] for pixel in pixels])
    assert saturations.min() < 0.35 and saturations.max() > 0.6


def test_seed_determines_the_image_and_shape_and_type_stay() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    original = image.copy()
    first, again = (distort_colors(np.random.default_rng(3), image) for _ in range(2))
    assert first.dtype == np.uint8 and first.shape == image.shape
    assert (first == again).all() and (image == original).all()
    assert len({images.tobytes() for images in distorted(image, 30)}) > 20
