"""Drawings: colours of masks, legends that fit their text, contact sheets."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hipie.segmentation import Segment, Segmentation
from hipie.visualizer import (
    GROUP_IMAGE_HEIGHT,
    MAX_LEGEND_WIDTH,
    REJECTED_COLOUR,
    contact_sheet,
    draw_group,
    draw_segments,
)

GREY = 200
HEIGHT, WIDTH = 420, 500


def mask(rows: slice, columns: slice) -> np.ndarray:
    pixels = np.zeros((HEIGHT, WIDTH), bool)
    pixels[rows, columns] = True
    return pixels


@pytest.fixture
def image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)


def painted(drawing: Image.Image) -> np.ndarray:
    return (np.asarray(drawing)[:HEIGHT, :WIDTH] != GREY).any(2)


def test_only_masks_and_their_edges_are_painted(image) -> None:
    inside = mask(slice(50, 120), slice(80, 300))
    changed = painted(draw_segments(image, [Segment("car", "thing", inside, 0.5)]))
    assert changed[inside].all()
    assert not changed[:45].any() and not changed[:, :75].any() and not changed[:, 305:].any()


def test_things_are_painted_over_stuff_whatever_their_order(image) -> None:
    car = Segment("car", "thing", mask(slice(50, 120), slice(80, 300)), 0.5)
    road = Segment("road", "stuff", ~car.mask, 0.5)
    drawn = [np.asarray(draw_segments(image, order)) for order in ([car, road], [road, car])]
    edge = slice(50, 120), slice(79, 82)
    first, second = (drawing[edge].reshape(-1, 3).astype(int) for drawing in drawn)
    red, green = (230, 25, 75), (60, 180, 75)
    assert (abs(first - red).sum(1).min(), abs(second - green).sum(1).min()) == (0, 0)


def test_legend_is_as_wide_as_its_text(image) -> None:
    everywhere = mask(slice(None), slice(None))
    widths = [
        draw_segments(image, [Segment(name, "thing", everywhere, 0.5)]).width - WIDTH
        for name in ("car", "traffic light", "a very long name " * 20)
    ]
    assert 0 < widths[0] < widths[1] < widths[2] <= MAX_LEGEND_WIDTH
    assert draw_segments(image, []).size == (WIDTH, HEIGHT)


def test_long_legend_makes_the_drawing_taller(image) -> None:
    many = [Segment(f"thing {i}", "thing", mask(slice(0, 9), slice(0, 9)), 0) for i in range(60)]
    assert draw_segments(image, many).height > HEIGHT


def test_group_sheet_has_one_title_and_full_images(image) -> None:
    results = [
        Segmentation(
            image, [Segment("the car", "expression", mask(slice(9, 90), slice(9, 90)), 0.9)]
        ),
        Segmentation(image, [Segment("the car", "expression", np.zeros((HEIGHT, WIDTH), bool), 0)]),
        Segmentation(image, []),
    ]
    sheet = draw_group(results, "the car")
    ink = (np.asarray(sheet) < 100).all(2)
    assert ink[:30].any(), "the title is above the images"
    grey = (np.asarray(sheet) == GREY).all(2).sum()
    share = (GROUP_IMAGE_HEIGHT / HEIGHT) ** 2
    assert grey > 0.95 * share * (3 * HEIGHT * WIDTH - 90 * 90)
    assert grey > 0.8 * sheet.width * sheet.height


def test_images_without_a_match_are_crossed_out(image) -> None:
    empty, rectangle = mask(slice(0, 0), slice(0, 0)), mask(slice(50, 90), slice(0, 90))
    results = [
        Segmentation(image, [Segment("the car", "expression", pixels, 0.5)])
        for pixels in (rectangle, empty)
    ]
    for result, crossed in zip(results, (False, True), strict=True):
        sheet = np.asarray(draw_group([result], "the car"))
        assert bool((sheet == REJECTED_COLOUR).all(2).any()) == crossed


def test_scores_may_be_left_out_and_notes_added(image) -> None:
    segments = [Segment("car", "thing", mask(slice(0, 9), slice(0, 9)), 0.5)]
    with_score = draw_segments(image, segments)
    without = draw_segments(image, segments, scores=False)
    assert without.width < with_score.width
    noted = draw_segments(image, segments, scores=False, notes=["a note that is longer"])
    assert noted.width > without.width


def test_contact_sheet_holds_images_of_any_size_without_overlap() -> None:
    sizes = [(300, 20), (600, 10), (5, 70), (1390, 3), (8, 8), (2000, 5), (9, 9)]
    images = [Image.new("RGB", size, (i, 0, 0)) for i, size in enumerate(sizes)]
    sheet = np.asarray(contact_sheet(images))
    for i, (width, height) in enumerate(sizes):
        assert (sheet == (i, 0, 0)).all(2).sum() == width * height
