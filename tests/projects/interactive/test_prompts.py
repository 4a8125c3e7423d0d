"""What SAM is told of clicks, boxes, scribbles and polygons, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hipie_interactive.prompts import Prompt, PromptError, Scribble, polygon_mask, told

SIZE = (60, 90)


def test_clicks_keep_their_order_and_kind():
    said = told(Prompt(inside=[(3, 4), (5.5, 6)], outside=[(80, 50)]), SIZE)
    assert said.points.tolist() == [[3, 4], [5.5, 6], [80, 50]]
    assert said.labels.tolist() == [1, 1, 0]
    assert said.box is None
    assert said.mask is None
    assert not said.ambiguous


def test_one_click_is_ambiguous_and_a_box_or_two_clicks_are_not():
    assert told(Prompt(inside=[(3, 4)]), SIZE).ambiguous
    assert not told(Prompt(inside=[(3, 4), (9, 9)]), SIZE).ambiguous
    assert not told(Prompt(inside=[(3, 4)], box=(0, 0, 9, 9)), SIZE).ambiguous


def test_a_scribble_is_points_of_its_kind():
    strokes = [Scribble([(5, 5), (40, 5)]), Scribble([(5, 50), (40, 50)], inside=False)]
    said = told(Prompt(scribbles=strokes), SIZE)
    assert set(said.points[said.labels == 1][:, 1]) == {5}
    assert set(said.points[said.labels == 0][:, 1]) == {50}


def test_a_polygon_is_its_box_its_area_and_its_centre():
    said = told(Prompt(polygon=[(10, 10), (30, 10), (30, 40), (10, 40)]), SIZE)
    assert said.box.tolist() == [10, 10, 31, 41]
    expected = np.zeros(SIZE, bool)
    expected[10:41, 10:31] = True
    assert np.array_equal(said.mask, expected)
    (x, y), label = said.points[0], said.labels[0]
    assert label == 1
    assert x == 20
    assert 20 <= y <= 30


def test_a_polygon_is_cut_at_the_border():
    mask = polygon_mask([(-40, -40), (20, -40), (20, 30), (-40, 30)], SIZE)
    expected = np.zeros(SIZE, bool)
    expected[:31, :21] = True
    assert np.array_equal(mask, expected)


def test_a_triangle_covers_the_pixels_inside_it():
    corners = np.array([[10, 5], [80, 20], [30, 55]])
    mask = polygon_mask(corners, SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    sides = []
    for a, b in zip(corners, np.roll(corners, -1, axis=0)):
        sides.append((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))
    within = np.all([side >= 0 for side in sides], axis=0)
    assert not (within & ~mask).any()
    assert (mask ^ within).sum() < 0.1 * within.sum()


BAD = {
    "nothing": (Prompt(), "a prompt needs a click, a box, a scribble or a polygon"),
    "only outside": (Prompt(outside=[(3, 3)]), "does not say where the object is"),
    "right of it": (Prompt(inside=[(90, 3)]), r"the click at \(90, 3\) is outside the image"),
    "above it": (Prompt(inside=[(3, -1)]), "which is 90 pixels wide and 60 high"),
    "not a number": (Prompt(inside=[(3, float("nan"))]), r"\(3, nan\) is outside"),
    "both": (
        Prompt(inside=[(3.2, 4.9)], outside=[(3.8, 4.1)]),
        r"the pixel \(3, 4\) is said to be both inside and outside",
    ),
    "stroke outside": (Prompt(scribbles=[Scribble([(3, 3), (3, 70)])]), "the scribble at"),
    "empty stroke": (Prompt(scribbles=[Scribble([])]), "a scribble needs at least one point"),
    "no pair": (Prompt(inside=[(1, 2, 3)]), r"pairs \(x, y\)"),
    "flat box": (Prompt(box=(5, 5, 5, 9)), r"the box \(5, 5, 5, 9\) has no area"),
    "far box": (Prompt(box=(95, 5, 99, 9)), "is outside the image"),
    "three numbers": (Prompt(box=(5, 5, 9)), "a box is four numbers"),
    "two corners": (Prompt(polygon=[(1, 1), (5, 5)]), "a polygon needs three corners"),
    "far polygon": (Prompt(polygon=[(100, 1), (120, 1), (120, 9)]), "the polygon lies outside"),
    "endless": (Prompt(polygon=[(1, 1), (9, 1), (np.inf, 9)]), "finite numbers"),
    "two boxes": (Prompt(box=(1, 1, 9, 9), polygon=[(1, 1), (9, 1), (9, 9)]), "brings its own"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_meant_is_one_expression(case):
    prompt, expression = BAD[case]
    with pytest.raises(PromptError, match=expression) as caught:
        told(prompt, SIZE)
    assert "\n" not in str(caught.value)


def test_outside_alone_may_come_later():
    assert told(Prompt(outside=[(3, 3)]), SIZE, again=True).labels.tolist() == [0]
