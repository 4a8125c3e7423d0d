"""The simulated user, against a formula over all pairs of pixels, and published clicks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hipie_interactive.click_sampler import Click, deepest, depth, next_click

DATA = Path(__file__).parent / "data"
MASK = arrays(bool, (7, 9))


def slow_squared_depth(region):
    """Squared distance of every pixel to the nearest that is outside, one by one, as integers."""
    height, width = region.shape
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded)
    found = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            found[y, x] = ((outside - (y + 1, x + 1)) ** 2).sum(1).min()
    return found


def slow_click(target, mask, clicked):
    """The rule in words: the deepest mistake, ties to "outside", then to the first in the rows."""
    best = (0, None)
    for inside, region in ((False, mask & ~target), (True, target & ~mask)):
        depths = slow_squared_depth(region)
        for y, x in np.argwhere(region):
            if not clicked[y, x] and depths[y, x] > best[0]:
                best = (depths[y, x], Click(int(x), int(y), inside))
    return best[1]


@settings(deadline=None, max_examples=60)
@given(MASK)
def test_depth_is_the_distance_to_the_nearest_pixel_outside(region):
    assert np.array_equal(depth(region), slow_squared_depth(region))


@settings(deadline=None, max_examples=100)
@given(MASK, MASK, arrays(bool, (7, 9), elements=st.sampled_from([False, False, False, True])))
def test_clicks_are_those_of_the_slow_rule(target, mask, clicked):
    assert next_click(target, mask, clicked) == slow_click(target, mask, clicked)


def test_larger_regions_too():
    rng = np.random.default_rng(0)
    noise = rng.random((2, 5, 6)) > 0.4
    target, mask = (np.kron(one, np.ones((6, 6), bool)) for one in noise)
    none = np.zeros_like(target)
    assert next_click(target, mask, none) == slow_click(target, mask, none)


def test_the_first_click_is_the_centre_of_the_object():
    target = np.zeros((40, 50), bool)
    target[10:21, 5:16] = True
    empty = np.zeros_like(target)
    assert next_click(target, empty, empty) == (10, 15, True)
    assert deepest(target) == (10, 15)


def test_of_equal_depths_the_first_counts_wherever_the_arrays_lie():
    target = np.zeros((60, 90), bool)
    target[30:55, 20:80] = True
    for _ in range(20):
        assert deepest(target.copy()) == (32, 42)


def test_deep_regions_are_measured_to_the_pixel():
    region = np.ones((801, 1203), bool)
    region[400, 601] = False
    y, x = np.mgrid[:801, :1203]
    border = np.minimum.reduce([y + 1, x + 1, 801 - y, 1203 - x])
    assert np.array_equal(depth(region), np.minimum(border**2, (y - 400) ** 2 + (x - 601) ** 2))


def test_a_border_of_the_image_counts_as_outside():
    assert deepest(np.ones((9, 9), bool)) == (4, 4)


def test_a_larger_mistake_outside_is_clicked_away():
    target, mask = np.zeros((2, 30, 30), bool)
    target[2:7, 2:7] = True
    mask[12:25, 12:25] = True
    assert next_click(target, mask, np.zeros_like(mask)) == (18, 18, False)


def test_nothing_is_clicked_twice_and_nothing_where_all_is_right():
    target = np.zeros((9, 9), bool)
    target[4, 4] = True
    empty = np.zeros_like(target)
    assert next_click(target, empty, empty) == (4, 4, True)
    assert next_click(target, empty, target) is None
    assert next_click(target, target, empty) is None


def test_an_empty_region_has_no_centre():
    with pytest.raises(ValueError, match="an empty region has no centre"):
        deepest(np.zeros((4, 4), bool))


def test_clicks_are_those_that_the_published_program_makes():
    """See the project's README for how they were recorded."""
    kept = np.load(DATA / "published_clicks.npz")
    targets, masks = kept["targets"], kept["masks"]
    assert len(targets) >= 8
    for target, answers, expected in zip(targets, masks, kept["clicks"]):
        clicked = np.zeros_like(target)
        mask = np.zeros_like(target)
        for answer, (x, y, inside) in zip(answers, expected.tolist()):
            click = next_click(target, mask, clicked)
            assert click == (x, y, bool(inside))
            clicked[click.y, click.x] = True
            mask = answer
