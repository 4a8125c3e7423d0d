"""What SAM is to_sam_prompt of clicks, boxes, scribbles and polygons, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from hipie_interactive.modeling.prompts import (
    Prompt,
    PromptError,
    Scribble,
    polygon_mask,
    to_sam_prompt,
)
from hipie_interactive.session import parse_prompts

SIZE = (60, 90)


def test_clicks_keep_their_order_and_label():
    prompt = to_sam_prompt(Prompt(inside=[(3, 4), (5.5, 6)], outside=[(80, 50)]), SIZE)
    assert prompt.points.tolist() == [[3, 4], [5.5, 6], [80, 50]]
    assert prompt.labels.tolist() == [1, 1, 0]
    assert prompt.box is None
    assert prompt.mask is None
    assert not prompt.ambiguous


def test_only_a_single_click_is_ambiguous():
    assert to_sam_prompt(Prompt(inside=[(3, 4)]), SIZE).ambiguous
    assert not to_sam_prompt(Prompt(inside=[(3, 4), (9, 9)]), SIZE).ambiguous
    assert not to_sam_prompt(Prompt(inside=[(3, 4)], box=(0, 0, 9, 9)), SIZE).ambiguous


def test_scribbles_become_points_with_their_label():
    strokes = [Scribble([(5, 5), (40, 5)]), Scribble([(5, 50), (40, 50)], inside=False)]
    prompt = to_sam_prompt(Prompt(scribbles=strokes), SIZE)
    assert set(prompt.points[prompt.labels == 1][:, 1]) == {5}
    assert set(prompt.points[prompt.labels == 0][:, 1]) == {50}


def test_polygon_becomes_its_box_area_and_centre():
    prompt = to_sam_prompt(Prompt(polygon=[(10, 10), (30, 10), (30, 40), (10, 40)]), SIZE)
    assert prompt.box.tolist() == [10, 10, 31, 41]
    expected = np.zeros(SIZE, bool)
    expected[10:41, 10:31] = True
    assert np.array_equal(prompt.mask, expected)
    (x, y), label = prompt.points[0], prompt.labels[0]
    assert label == 1
    assert x == 20
    assert 20 <= y <= 30


def test_polygon_is_clipped_to_the_image():
    mask = polygon_mask([(-40, -40), (20, -40), (20, 30), (-40, 30)], SIZE)
    expected = np.zeros(SIZE, bool)
    expected[:31, :21] = True
    assert np.array_equal(mask, expected)


def test_triangle_contains_the_pixels_inside_it():
    vertices = np.array([[10, 5], [80, 20], [30, 55]])
    mask = polygon_mask(vertices, SIZE)
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    sides = []
    for a, b in zip(vertices, np.roll(vertices, -1, axis=0)):
        sides.append((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0]))
    within = np.all([side >= 0 for side in sides], axis=0)
    assert not (within & ~mask).any()
    assert (mask ^ within).sum() < 0.1 * within.sum()


INVALID = {
    "nothing": (Prompt(), "a prompt needs a click, a box, a scribble or a polygon"),
    "only outside": (Prompt(outside=[(3, 3)]), "does not locate the object"),
    "right of it": (Prompt(inside=[(90, 3)]), r"the click at \(90, 3\) is outside the image"),
    "above it": (Prompt(inside=[(3, -1)]), "which is 90 pixels wide and 60 high"),
    "not a number": (Prompt(inside=[(3, float("nan"))]), r"\(3, nan\) is outside"),
    "both": (
        Prompt(inside=[(3.2, 4.9)], outside=[(3.8, 4.1)]),
        r"the pixel \(3, 4\) is both inside and outside",
    ),
    "stroke outside": (Prompt(scribbles=[Scribble([(3, 3), (3, 70)])]), "the scribble at"),
    "empty stroke": (Prompt(scribbles=[Scribble([])]), "a scribble needs at least one point"),
    "no pair": (Prompt(inside=[(1, 2, 3)]), r"pairs \(x, y\)"),
    "flat box": (Prompt(box=(5, 5, 5, 9)), r"the box \(5, 5, 5, 9\) has no area"),
    "far box": (Prompt(box=(95, 5, 99, 9)), "is outside the image"),
    "three numbers": (Prompt(box=(5, 5, 9)), "a box must be four numbers"),
    "two vertices": (Prompt(polygon=[(1, 1), (5, 5)]), "a polygon needs at least three vertices"),
    "far polygon": (Prompt(polygon=[(100, 1), (120, 1), (120, 9)]), "the polygon is outside"),
    "endless": (Prompt(polygon=[(1, 1), (9, 1), (np.inf, 9)]), "finite numbers"),
    "infinite box": (Prompt(box=(1, 1, np.inf, 9)), "the numbers of a box must be finite"),
    "box of text": (Prompt(box="1,1,9,9"), "the numbers of a box must be numbers, and are '1,1"),
    "box of texts": (Prompt(box=["1", "1", "9", "9"]), "must be numbers"),
    "box of pairs": (Prompt(box=((1, 1), (9,))), "must be numbers"),
    "horizontal": (Prompt(polygon=[(1, 5), (9, 5), (30, 5)]), "on a line"),
    "diagonal": (Prompt(polygon=[(1, 1), (20, 20), (50, 50), (7, 7)]), "on a line"),
    "one point": (Prompt(polygon=[(7, 7)] * 4), "on a line"),
    "two boxes": (
        Prompt(box=(1, 1, 9, 9), polygon=[(1, 1), (9, 1), (9, 9)]),
        "defines a box as well",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_prompts_are_refused_with_one_line(case):
    prompt, message = INVALID[case]
    with pytest.raises(PromptError, match=message) as caught:
        to_sam_prompt(prompt, SIZE)
    assert "\n" not in str(caught.value)


def test_refinement_may_have_outside_points_only():
    assert to_sam_prompt(Prompt(outside=[(3, 3)]), SIZE, refinement=True).labels.tolist() == [0]


@pytest.mark.parametrize(
    "scribbles",
    [
        [Scribble([(3, 4), (40, 30)]), Scribble([(80, 50)], False)],
        [{"points": [(3, 4), (40, 30)]}, {"points": [(80, 50)], "inside": False}],
        ([[3, 4], [40, 30]], {"points": np.array([[80, 50]]), "inside": 0}),
        (s for s in [np.array([[3, 4], [40, 30]]), Scribble([(80, 50)], np.False_)]),
    ],
)
def test_scribbles_in_every_form_are_the_same_points(scribbles):
    prompt = to_sam_prompt(Prompt.parse({"scribbles": scribbles}), SIZE)
    expected = Prompt(scribbles=[Scribble([(3, 4), (40, 30)]), Scribble([(80, 50)], False)])
    assert np.array_equal(prompt.points, to_sam_prompt(expected, SIZE).points)
    assert prompt.labels.tolist() == to_sam_prompt(expected, SIZE).labels.tolist()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"label": 0.5, "inside": [(3, 3)]}, "the label of a prompt is the name .* not 0.5"),
        ({"scribbles": [{"points": [(3, 3)], "inside": 0.5}]}, "inside of a scribble is True"),
        ({"scribbles": [{"dots": [(3, 3)]}]}, 'a scribble has no "dots"; it has points, inside'),
        ({"scribbles": {"points": [(3, 3)]}}, "scribbles of a prompt is a list, not"),
        ({"inside": 3}, "inside of a prompt is a list, not 3"),
        ({"inside": "3,3"}, "inside of a prompt is a list, not '3,3'"),
        ([(3, 3)], "a prompt is a dict such as"),
    ],
)
def test_fields_of_other_types_are_refused(fields, message):
    with pytest.raises(PromptError, match=message) as caught:
        to_sam_prompt(Prompt.parse(fields), SIZE)
    assert "\n" not in str(caught.value)


def test_thin_and_crossing_polygons_have_an_area():
    for polygon in ([(1, 1), (80, 2), (80, 1)], [(5, 5), (60, 50), (60, 5), (5, 50)]):
        assert polygon_mask(polygon, SIZE).any()


def test_one_prompt_alone_and_generators_are_read():
    click = {"inside": [(3, 3)]}
    for prompts in (click, Prompt(**click), [click], (c for c in [click])):
        assert [prompt.inside for prompt in parse_prompts(prompts)] == [((3, 3),)]
    for prompts in ([], (c for c in ())):
        with pytest.raises(PromptError, match="there is no prompt"):
            parse_prompts(prompts)
    with pytest.raises(PromptError, match="prompts are a list of dicts, not 3"):
        parse_prompts(3)
