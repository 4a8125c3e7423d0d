"""Pointing game of heatmaps."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hipie.evaluation.metrics.pointing import heatmap_maximum, points_at


@pytest.mark.parametrize("seed", range(5))
def test_maximum_is_that_of_the_resized_heatmap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    heatmap = rng.permutation(35).reshape(5, 7).astype(np.float32)
    resized = cv2.resize(heatmap, (7 * 9, 5 * 11), interpolation=cv2.INTER_LINEAR)
    assert resized[heatmap_maximum(heatmap, 5 * 11, 7 * 9)] == pytest.approx(resized.max())


def test_heatmap_points_at_a_target() -> None:
    heatmap, target = np.zeros((4, 4)), np.zeros((40, 80), np.uint8)
    heatmap[1, 2] = 1  # rows 10 to 20, columns 40 to 60
    target[14:17, 49:52] = 1
    assert points_at(heatmap, target)
    assert not points_at(heatmap, 1 - target)
    assert not points_at(heatmap.T, target)


def test_first_of_several_maxima_counts() -> None:
    assert heatmap_maximum(np.zeros((2, 2)), 20, 20) == (5, 5)
