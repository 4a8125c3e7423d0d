"""Point prompts of Matcher's mask proposals, and the filters of its masks."""

from __future__ import annotations

import dataclasses
from math import comb

import numpy as np
import pytest
import torch

from hipie_fewshot.modeling.mask_proposals import (
    ProposalSettings,
    cluster_centres,
    draw_subsets,
    generate_proposals,
)

NO_THRESHOLDS = ProposalSettings(
    points=(1, 2), draws=8, grid=3, quality=0, grid_quality=0, stability=0, grid_stability=0, nms=1
)


def test_all_subsets_of_few_points_are_prompts():
    points = np.arange(12).reshape(6, 2)
    subsets = list(draw_subsets(points, (1, 3), 64, 0))
    assert [subset.shape for subset in subsets] == [(comb(6, k), k, 2) for k in (1, 2, 3)]
    assert len({subset.tobytes() for subset in subsets[2]}) == 20


def test_subsets_of_many_points_are_drawn_without_repetition():
    points = np.arange(40).reshape(20, 2)
    subsets = list(draw_subsets(points, (2, 4), 64, 0))
    assert [subset.shape for subset in subsets] == [(64, k, 2) for k in (2, 3, 4)]
    for row in subsets[2]:
        assert len({tuple(point) for point in row.tolist()}) == 4
    again = list(draw_subsets(points, (2, 4), 64, 0))
    assert all(np.array_equal(*pair) for pair in zip(subsets, again))
    other = list(draw_subsets(points, (2, 4), 64, 1))
    assert not np.array_equal(subsets[0], other[0])


def test_fewer_points_than_the_smallest_subset_are_all_used():
    points = np.arange(4).reshape(2, 2)
    assert [subset.shape for subset in draw_subsets(points, (4, 6), 64, 0)] == [(1, 2, 2)]


def test_cluster_centres_are_in_the_generated_clusters():
    rng = np.random.default_rng(0)
    middles = np.array([[20, 20], [80, 20], [20, 80], [80, 80]])
    points = (middles[:, None] + rng.integers(-5, 6, (4, 10, 2))).reshape(-1, 2)
    separated = 0
    for seed in range(10):
        result = cluster_centres(points, 4, seed)
        assert result.dtype == int
        near = np.hypot(*(points[:, None] - result[None]).transpose(2, 0, 1)).argmin(1)
        for number, centre in enumerate(result):
            assert np.abs(points[near == number].mean(0) - centre).max() < 2
        nearest = np.abs(result[:, None] - middles[None]).max(-1)
        separated += (
            sorted(nearest.argmin(1).tolist()) == [0, 1, 2, 3] and nearest.min(1).max() <= 5
        )
    assert separated >= 5
    assert np.array_equal(cluster_centres(points[:3], 8, seed=0), points[:3])


def test_thresholds_only_remove_masks(sam, pixels):
    image = sam.encode(pixels)
    points = np.array([[10, 10], [50, 30], [80, 50]])
    unfiltered = generate_proposals(image, points, NO_THRESHOLDS, 0)
    assert len(unfiltered) == 9 + 3 * 3 + 3 * 3
    kept = {mask.numpy().tobytes() for mask in unfiltered}
    for change in (
        {"quality": 0.9, "grid_quality": 0.9},
        {"stability": 0.95, "grid_stability": 0.95},
        {"nms": 0.7},
    ):
        fewer = generate_proposals(image, points, dataclasses.replace(NO_THRESHOLDS, **change), 0)
        assert 0 < len(fewer) < len(unfiltered)
        assert {mask.numpy().tobytes() for mask in fewer} <= kept


def test_single_mask_prompts_without_grid(sam, pixels):
    settings = dataclasses.replace(NO_THRESHOLDS, three_masks=False, grid=0, points=(1, 1))
    result = generate_proposals(sam.encode(pixels), np.array([[10, 10], [50, 30]]), settings, 0)
    assert result.shape == (2, 60, 90)
    assert result.dtype == torch.bool


def test_stability_is_the_overlap_of_two_thresholds(sam, pixels):
    """Logits are thresholded at 1 and at -1, as segment_anything defines it."""
    image = sam.encode(pixels)
    points = np.array([[10, 10], [50, 30], [80, 50]])
    predicted = image.predict(points=points[:, None], labels=np.ones((3, 1)), multimask=True)
    size = image.input_size, image.size
    logits = sam.model.postprocess_masks(predicted.low_resolution.flatten(0, 1)[:, None], *size)
    ratios = (logits > 1).sum((1, 2, 3)) / (logits > -1).sum((1, 2, 3))
    level = float(ratios.sort().values[4:6].mean())
    settings = dataclasses.replace(NO_THRESHOLDS, grid=0, points=(1, 1), stability=level)
    assert len(generate_proposals(image, points, settings, 0)) == int((ratios >= level).sum()) == 4


def test_no_mask_above_the_threshold_gives_no_proposals(sam, pixels):
    settings = dataclasses.replace(NO_THRESHOLDS, quality=5.0, grid_quality=5.0)
    assert len(generate_proposals(sam.encode(pixels), np.array([[10, 10]]), settings, 0)) == 0


@pytest.mark.parametrize("grid", [0, 2])
def test_image_is_encoded_once(sam, pixels, grid):
    calls = []
    hook = sam.model.image_encoder.register_forward_hook(lambda *_: calls.append(1))
    image = sam.encode(pixels)
    generate_proposals(
        image, np.array([[10, 10]]), dataclasses.replace(NO_THRESHOLDS, grid=grid), 0
    )
    hook.remove()
    assert len(calls) == 1
