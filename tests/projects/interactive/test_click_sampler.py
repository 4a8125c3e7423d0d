"""Click sampling against a formula over all pairs of pixels, and against published clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hipie_interactive.modeling.click_sampler import (
    Click,
    next_click,
    region_centre,
    squared_distance_transform,
)

DATA = Path(__file__).parent / "data"
MASK = arrays(bool, (7, 9))


def squared_distances(region):
    """Compute the squared distance of every pixel to the nearest outside, over all pairs."""
    height, width = region.shape
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded)
    result = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            result[y, x] = ((outside - (y + 1, x + 1)) ** 2).sum(1).min()
    return result


def click_by_search(target, mask, clicked):
    """Search the error pixel farthest from its region's border; ties: negative, then by rows."""
    best = (0, None)
    for inside, region in ((False, mask & ~target), (True, target & ~mask)):
        distances = squared_distances(region)
        for y, x in np.argwhere(region):
            if not clicked[y, x] and distances[y, x] > best[0]:
                best = (distances[y, x], Click(int(x), int(y), inside))
    return best[1]


@settings(deadline=None, max_examples=60)
@given(MASK)
def test_distance_is_to_the_nearest_pixel_outside(region):
    assert np.array_equal(squared_distance_transform(region), squared_distances(region))


@settings(deadline=None, max_examples=100)
@given(MASK, MASK, arrays(bool, (7, 9), elements=st.sampled_from([False, False, False, True])))
def test_clicks_equal_an_exhaustive_search(target, mask, clicked):
    assert next_click(target, mask, clicked) == click_by_search(target, mask, clicked)


def test_clicks_on_larger_regions_equal_an_exhaustive_search():
    rng = np.random.default_rng(0)
    noise = rng.random((2, 5, 6)) > 0.4
    target, mask = (np.kron(blocks, np.ones((6, 6), bool)) for blocks in noise)
    none = np.zeros_like(target)
    assert next_click(target, mask, none) == click_by_search(target, mask, none)


def test_first_click_is_the_centre_of_the_object():
    target = np.zeros((40, 50), bool)
    target[10:21, 5:16] = True
    empty = np.zeros_like(target)
    assert next_click(target, empty, empty) == (10, 15, True)
    assert region_centre(target) == (10, 15)


def test_ties_are_broken_by_rows_for_any_memory_layout():
    target = np.zeros((60, 90), bool)
    target[30:55, 20:80] = True
    for _ in range(20):
        assert region_centre(target.copy()) == (32, 42)


def test_distances_in_large_regions_are_exact():
    region = np.ones((801, 1203), bool)
    region[400, 601] = False
    y, x = np.mgrid[:801, :1203]
    border = np.minimum.reduce([y + 1, x + 1, 801 - y, 1203 - x])
    assert np.array_equal(
        squared_distance_transform(region), np.minimum(border**2, (y - 400) ** 2 + (x - 601) ** 2)
    )


def test_image_border_counts_as_outside():
    assert region_centre(np.ones((9, 9), bool)) == (4, 4)


def test_larger_false_positive_gets_a_negative_click():
    target, mask = np.zeros((2, 30, 30), bool)
    target[2:7, 2:7] = True
    mask[12:25, 12:25] = True
    assert next_click(target, mask, np.zeros_like(mask)) == (18, 18, False)


def test_clicked_pixels_and_correct_masks_get_no_click():
    target = np.zeros((9, 9), bool)
    target[4, 4] = True
    empty = np.zeros_like(target)
    assert next_click(target, empty, empty) == (4, 4, True)
    assert next_click(target, empty, target) is None
    assert next_click(target, target, empty) is None


def test_empty_region_is_refused():
    with pytest.raises(ValueError, match="an empty region has no centre"):
        region_centre(np.zeros((4, 4), bool))


def test_clicks_equal_those_of_the_published_program():
    """See the project's README for how they were recorded."""
    kept = np.load(DATA / "published_clicks.npz")
    targets, masks = kept["targets"], kept["masks"]
    assert len(targets) >= 8
    for target, predictions, expected in zip(targets, masks, kept["clicks"]):
        clicked = np.zeros_like(target)
        mask = np.zeros_like(target)
        for prediction, (x, y, inside) in zip(predictions, expected.tolist()):
            click = next_click(target, mask, clicked)
            assert click == (x, y, bool(inside))
            clicked[click.y, click.x] = True
            mask = prediction
