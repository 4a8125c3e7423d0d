"""Drawings of heatmaps."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.heatmap_drawing import draw_heatmap, draw_heatmaps
from hipie.segmentation import Heatmaps, Segmentation


def result(count: int, sources: tuple[int, ...] = ()) -> Segmentation:
    image = np.full((60, 80, 3), 90, np.uint8)
    rng = np.random.default_rng(count)
    visual = rng.random((count, 3, 4)).astype(np.float32)
    heatmaps = Heatmaps(rng.random((3, 4)).astype(np.float32), visual, sources)
    return Segmentation(image, [], heatmaps=heatmaps)


def test_colours_rise_with_the_heatmap_and_a_ring_is_at_its_maximum() -> None:
    heatmap = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 12)
    drawn = np.asarray(draw_heatmap(np.zeros((40, 240, 3), np.uint8), heatmap, (240, 40)))
    green = drawn[2, 10:210:20, 1].astype(int)  # rises along the colour map
    assert (np.diff(green) > 0).all()
    ring = np.argwhere(drawn.min(-1) > 200)
    np.testing.assert_allclose(ring.mean(0), (20, 230), atol=1)
    scaled = np.asarray(draw_heatmap(np.zeros((40, 240, 3), np.uint8), 5 * heatmap + 3, (240, 40)))
    assert np.abs(scaled.astype(int) - drawn).max() <= 2  # rounding of the same values


def test_heatmap_without_contrast_is_drawn() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    assert draw_heatmap(image, np.zeros((2, 2), np.float32), (20, 20)).size == (20, 20)


def test_sheet_has_a_row_for_each_image_and_no_repetitions() -> None:
    one, two = draw_heatmaps([result(3)], "the cup"), draw_heatmaps([result(3)] * 2, "the cup")
    assert two.height > one.height and two.width == one.width
    repeated = draw_heatmaps([result(4, (2, 0, 2, 2))], "the cup")
    assert repeated.size == draw_heatmaps([result(2, (2, 0))], "the cup").size
    assert draw_heatmaps([result(0)], "the cup").width < one.width


def test_results_without_heatmaps_raise_an_error() -> None:
    with pytest.raises(ValueError, match=r"refer_group\(heatmaps=True\)"):
        draw_heatmaps([Segmentation(np.zeros((4, 4, 3), np.uint8), [])], "the cup")
