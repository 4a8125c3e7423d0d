"""Drawings: colours lie where masks are, legends are as wide as their words, sheets hold all."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from hipie.segmentation import Segment, Segmentation
from hipie.visualize import WIDEST_LEGEND, contact_sheet, draw_group, draw_segments

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


def test_a_group_has_one_title_and_full_pictures(image) -> None:
    answers = [
        Segmentation(
            image, [Segment("the car", "sentence", mask(slice(9, 90), slice(9, 90)), 0.9)]
        ),
        Segmentation(image, [Segment("the car", "sentence", np.zeros((HEIGHT, WIDTH), bool), 0)]),
        Segmentation(image, []),
    ]
    sheet = draw_group(answers, "the car")
    assert sheet.width < 2 * WIDTH + 40 and sheet.height < 2 * HEIGHT + 120
    ink = (np.asarray(sheet) < 100).all(2)
    assert ink[:30].any(), "the sentence stands above"
    grey = (np.asarray(sheet) == GREY).all(2).sum()
    assert grey > 0.9 * (3 * HEIGHT * WIDTH - 81 * 81)


def test_sheets_hold_pictures_of_any_size_without_overlap() -> None:
    sizes = [(30, 20), (60, 10), (5, 70)]
    pictures = [Image.new("RGB", size, (i, 0, 0)) for i, size in enumerate(sizes)]
    sheet = np.asarray(contact_sheet(pictures, columns=2))
    for i, (width, height) in enumerate(sizes):
        assert (sheet == (i, 0, 0)).all(2).sum() == width * height
