"""Drawings: colours lie where masks are, legends are as wide as their words, sheets hold all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hipie.segmentation import Segment, Segmentation
from hipie.visualizer import (
    GROUP_HEIGHT,
    REJECTED,
    WIDEST_LEGEND,
    contact_sheet,
    draw_group,
    draw_segments,
)

GREY = 200
HEIGHT, WIDTH = 420, 500


def mask(rows: slice, columns: slice) -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[rows, columns] = True
    return found


@pytest.fixture
def image() -> np.ndarray:
    return np.full((HEIGHT, WIDTH, 3), GREY, np.uint8)


def painted(drawing: Image.Image) -> np.ndarray:
    return (np.asarray(drawing)[:HEIGHT, :WIDTH] != GREY).any(2)


def test_only_masks_and_their_edges_are_painted(image) -> None:
    inside = mask(slice(50, 120), slice(80, 300))
    found = painted(draw_segments(image, [Segment("car", "thing", inside, 0.5)]))
    assert found[inside].all()
    assert not found[:45].any() and not found[:, :75].any() and not found[:, 305:].any()


def test_things_are_painted_over_stuff_whatever_their_order(image) -> None:
    car = Segment("car", "thing", mask(slice(50, 120), slice(80, 300)), 0.5)
    road = Segment("road", "stuff", ~car.mask, 0.5)
    drawn = [np.asarray(draw_segments(image, order)) for order in ([car, road], [road, car])]
    edge = slice(50, 120), slice(79, 82)
    first, second = (one[edge].reshape(-1, 3).astype(int) for one in drawn)
    red, green = (230, 25, 75), (60, 180, 75)
    assert (abs(first - red).sum(1).min(), abs(second - green).sum(1).min()) == (0, 0)


def test_a_legend_is_as_wide_as_its_words(image) -> None:
    everywhere = mask(slice(None), slice(None))
    widths = [
        draw_segments(image, [Segment(name, "thing", everywhere, 0.5)]).width - WIDTH
        for name in ("car", "traffic light", "a very long name " * 20)
    ]
    assert 0 < widths[0] < widths[1] < widths[2] <= WIDEST_LEGEND
    assert draw_segments(image, []).size == (WIDTH, HEIGHT)


def test_a_long_legend_makes_the_drawing_taller(image) -> None:
    many = [Segment(f"thing {i}", "thing", mask(slice(0, 9), slice(0, 9)), 0) for i in range(60)]
    assert draw_segments(image, many).height > HEIGHT


def test_a_group_has_one_title_and_full_images(image) -> None:
    answers = [
        Segmentation(
            image, [Segment("the car", "sentence", mask(slice(9, 90), slice(9, 90)), 0.9)]
        ),
        Segmentation(image, [Segment("the car", "sentence", np.zeros((HEIGHT, WIDTH), bool), 0)]),
        Segmentation(image, []),
    ]
    sheet = draw_group(answers, "the car")
    ink = (np.asarray(sheet) < 100).all(2)
    assert ink[:30].any(), "the expression stands above"
    grey = (np.asarray(sheet) == GREY).all(2).sum()
    share = (GROUP_HEIGHT / HEIGHT) ** 2
    assert grey > 0.95 * share * (3 * HEIGHT * WIDTH - 90 * 90)
    assert grey > 0.8 * sheet.width * sheet.height


def test_images_without_an_answer_are_crossed_out(image) -> None:
    nothing, something = mask(slice(0, 0), slice(0, 0)), mask(slice(50, 90), slice(0, 90))
    answers = [
        Segmentation(image, [Segment("the car", "sentence", one, 0.5)])
        for one in (something, nothing)
    ]
    for answer, crossed in zip(answers, (False, True), strict=True):
        sheet = np.asarray(draw_group([answer], "the car"))
        assert bool((sheet == REJECTED).all(2).any()) == crossed


def test_scores_may_be_left_out_and_notes_added(image) -> None:
    everything = [Segment("car", "thing", mask(slice(0, 9), slice(0, 9)), 0.5)]
    with_score = draw_segments(image, everything)
    without = draw_segments(image, everything, scores=False)
    assert without.width < with_score.width
    noted = draw_segments(image, everything, scores=False, notes=["a note that is longer"])
    assert noted.width > without.width


def test_sheets_hold_images_of_any_size_without_overlap() -> None:
    sizes = [(300, 20), (600, 10), (5, 70), (1390, 3), (8, 8), (2000, 5), (9, 9)]
    images = [Image.new("RGB", size, (i, 0, 0)) for i, size in enumerate(sizes)]
    sheet = np.asarray(contact_sheet(images))
    for i, (width, height) in enumerate(sizes):
        assert (sheet == (i, 0, 0)).all(2).sum() == width * height
