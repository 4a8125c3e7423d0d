"""Scribbles, boxes and polygons of the simulated user."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from hipie.errors import InputError
from hipie_interactive.evaluation import InteractiveEvaluator
from hipie_interactive.modeling.click_sampler import next_click
from hipie_interactive.modeling.interactions import (
    KINDS,
    SimulatedUser,
    box_around,
    next_scribble,
    polygon_around,
)
from hipie_interactive.modeling.prompts import polygon_mask
from hipie_interactive.modeling.simulated_user import iou, simulate_clicks

SIZE = (60, 90)


def ellipse(centre=(40, 30), axes=(25, 12), angle=20) -> np.ndarray:
    canvas = np.zeros(SIZE, np.uint8)
    cv2.ellipse(canvas, centre, axes, angle, 0, 360, 1, -1)
    return canvas.astype(bool)


def random_masks(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A target and a mask of random blobs."""
    rng = np.random.default_rng(seed)
    noise = [cv2.GaussianBlur(rng.random(SIZE), (0, 0), 5) for _ in range(2)]
    target, mask = (values > np.median(values) for values in noise)
    return target, mask


@pytest.mark.parametrize("seed", range(8))
def test_scribbles_stay_in_one_part_of_the_largest_error(seed):
    target, mask = random_masks(seed)
    pixels, inside = next_scribble(target, mask, np.zeros(SIZE, bool))
    click = next_click(target, mask, np.zeros(SIZE, bool))
    assert (click.x, click.y) in set(map(tuple, pixels)) and inside == click.inside
    error = target & ~mask if inside else mask & ~target
    assert error[pixels[:, 1], pixels[:, 0]].all()
    _, parts = cv2.connectedComponents(error.astype(np.uint8), connectivity=4)
    assert len(set(parts[pixels[:, 1], pixels[:, 0]])) == 1
    assert len(set(map(tuple, pixels))) == len(pixels)
    steps = np.abs(np.diff(pixels, axis=0)).max(1)
    assert (steps == 1).all(), "neighbours along the line touch"


def test_scribbles_follow_the_long_axis():
    pixels, inside = next_scribble(ellipse(angle=0), np.zeros(SIZE, bool), np.zeros(SIZE, bool))
    assert inside and len(pixels) > 45 and np.ptp(pixels[:, 1]) == 0


def test_no_scribble_without_an_error():
    target = ellipse()
    assert next_scribble(target, target, np.zeros(SIZE, bool)) is None
    assert next_scribble(target, np.zeros(SIZE, bool), np.ones(SIZE, bool)) is None


def test_boxes_are_within_the_jitter_and_the_image():
    target = ellipse(angle=0)
    tight = (15, 18, 66, 43)
    assert box_around(target, 0.0, np.random.default_rng(0)) == tight
    boxes = np.array([box_around(target, 0.2, np.random.default_rng(i)) for i in range(200)])
    moved = (boxes - tight) / np.array([51, 25, 51, 25])
    assert np.abs(moved).max() <= 0.2 and (np.abs(moved).max(0) > 0.19).all()
    edge = np.zeros(SIZE, bool)
    edge[:3, :3] = True
    for seed in range(50):
        x1, y1, x2, y2 = box_around(edge, 0.5, np.random.default_rng(seed))
        assert 0 <= x1 < x2 <= 90 and 0 <= y1 < y2 <= 60


@pytest.mark.parametrize("vertices", [4, 5, 8, 20])
def test_polygons_have_few_vertices_and_fit_better_with_more(vertices):
    target = ellipse()
    polygon = polygon_around(target, vertices)
    assert 3 <= len(polygon) <= vertices
    fit = iou(polygon_mask(polygon, SIZE), target)
    assert fit > {4: 0.5, 5: 0.6, 8: 0.85, 20: 0.95}[vertices]


def test_polygons_of_thin_objects_are_their_boxes():
    target = np.zeros(SIZE, bool)
    target[10, 20:40] = True
    assert polygon_mask(polygon_around(target, 4), SIZE)[target].all()
    pixel = np.zeros(SIZE, bool)
    pixel[59, 89] = True
    assert polygon_mask(polygon_around(pixel, 8), SIZE)[59, 89]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_points_are_on_the_side_that_they_name(kind, seed):
    """No pixel is on the object in one prompt and on the background in another."""
    target = random_masks(seed)[0]
    user = SimulatedUser(target, kind)
    merged = None
    for step in range(5):
        prompt = user.prompt(random_masks(10 * seed + step)[1])
        points = np.floor(prompt.points).astype(int)
        assert (target[points[:, 1], points[:, 0]] == prompt.labels).all()
        assert (prompt.box is not None) == (step == 0 and kind in ("boxes", "polygons"))
        assert (prompt.mask is not None) == (step == 0 and kind == "polygons")
        merged = prompt if merged is None else merged.merge(prompt)
    assert len(merged.points) >= 4


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_prompted_independently_and_reproducibly(image, kind):
    targets = np.stack([ellipse(), ellipse((70, 40), (10, 10))])
    together = simulate_clicks(image, targets, 3, kind)
    for joint, target in zip(together, targets, strict=True):
        alone = simulate_clicks(image, target[None], 3, kind)[0]
        assert joint.clicks == alone.clicks and joint.ious == pytest.approx(alone.ious, rel=0.01)
        assert len(joint.ious) == 3


def test_protocols_name_the_prompts():
    assert {kind: InteractiveEvaluator(7, kind=kind).protocol for kind in KINDS} == {
        "clicks": "at most 7 simulated clicks, each on the largest error; mean over objects",
        "scribbles": "at most 7 simulated scribbles, each through the largest error; mean over "
        "objects",
        "boxes": "at most 7 simulated prompts, a box and then clicks on the largest error; mean "
        "over objects",
        "polygons": "at most 7 simulated prompts, a polygon and then clicks on the largest error; "
        "mean over objects",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("lasso",), 'PROMPTS is "lasso"; it has to be one of clicks, scribbles, boxes, polygons'),
        (("boxes", 0.6), "BOX_JITTER is 0.6"),
        (("polygons", 0.1, 3), "POLYGON_VERTICES is 3"),
    ],
)
def test_invalid_settings_are_named(options, message):
    with pytest.raises(InputError, match=message):
        SimulatedUser(ellipse(), *options)
