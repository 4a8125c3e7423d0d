"""Masks over an image, and the legend."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.app.drawing import entries_of, paint, swatches
from hipie.segmentation import Segment, Segmentation
from hipie.visualizer import colour_of


@pytest.fixture
def result() -> Segmentation:
    image = np.full((40, 60, 3), 100, np.uint8)
    left, right, wheel = (np.zeros((40, 60), bool) for _ in range(3))
    left[:, :30], right[:, 30:], wheel[10:20, 35:45] = True, True, True
    car = Segment("car", "thing", right, 0.9, (Segment("wheel", "part", wheel, 0.5),))
    nothing = Segment("dog", "thing", np.zeros((40, 60), bool), 0.1)
    return Segmentation(image, [Segment("sky", "stuff", left, 0.8), car, nothing])


def test_the_legend_has_wholes_before_their_parts(result):
    entries = entries_of(result)
    assert [entry.text for entry in entries] == [
        "1. sky (0.80)",
        "2. car (0.90)",
        "3. – wheel (0.50)",
        "4. dog (0.10, nothing found)",
    ]
    assert [entry.colour for entry in entries] == [colour_of(number) for number in range(4)]


@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_colours_have_the_opacity(result, opacity):
    entries = entries_of(result)
    painted = paint(result.image, entries, opacity)
    expected = 100 * (1 - opacity) + np.array(entries[0].colour) * opacity
    assert np.abs(painted[20, 10].astype(int) - expected).max() <= 1
    assert (result.image == 100).all()


def test_one_mask_alone(result):
    entries = entries_of(result)
    painted = paint(result.image, entries, 1.0, "3. – wheel (0.50)")
    inside = entries[2].segment.mask
    assert (painted[inside] == entries[2].colour).all()
    assert (painted[~inside] == 100).all()


def test_choices_have_the_colours_of_their_masks(result):
    style = swatches(entries_of(result), "legend")
    assert "#legend label:nth-of-type(2) > span::before" in style
    assert f"background:rgb{colour_of(3)}" in style and style.count("background") == 4
