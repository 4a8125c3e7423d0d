"""Drawings: colours of masks, legends that fit their text, contact sheets."""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hipie import text_drawing, visualizer
from hipie.segmentation import Segment, Segmentation
from hipie.visualizer import (
    GROUP_IMAGE_HEIGHT,
    MAX_ENLARGED_SIDE,
    MAX_LEGEND_WIDTH,
    MAX_SHEET_WIDTH,
    MIN_LEGEND_AREA,
    MIN_LEGEND_WIDTH,
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


def strip(height: int, width: int) -> Segmentation:
    """A result with one object in the first half of a grey image."""
    pixels = np.zeros((height, width), bool)
    pixels[: (height + 1) // 2, : (width + 1) // 2] = True
    image = np.full((height, width, 3), GREY, np.uint8)
    return Segmentation(image, [Segment("the ball on the left", "expression", pixels, 0.9)])


@pytest.mark.parametrize(("height", "width"), [(4, 4000), (4000, 4), (1, 3000), (3000, 1), (4, 9)])
def test_strips_are_drawn_in_bounded_size(height: int, width: int) -> None:
    result = strip(height, width)
    drawing, sheet = result.draw("a title"), visualizer.draw_group([result] * 3, "the ball")
    assert drawing.width <= max(width, MAX_ENLARGED_SIDE) + MAX_LEGEND_WIDTH
    assert drawing.height <= max(height, MAX_ENLARGED_SIDE) + 200
    assert sheet.width <= MAX_SHEET_WIDTH and sheet.height <= 3 * (GROUP_IMAGE_HEIGHT + 90)
    assert (np.asarray(drawing) == GREY).all(2).sum() >= height * width // 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_legend_is_not_wider_than_the_image(height: int, width: int) -> None:
    result = strip(height, width)
    drawing, canvas = result.draw(), result.overlay.canvas
    beside = drawing.width > canvas.shape[1]
    assert drawing.width - canvas.shape[1] <= max(canvas.shape[1], MIN_LEGEND_WIDTH) + 10
    assert canvas.shape[0] % height == 0 and max(canvas.shape[:2]) <= MAX_ENLARGED_SIDE
    assert beside or canvas.shape[1] > 4 * canvas.shape[0]


def test_text_of_large_images_is_larger(image) -> None:
    segments = strip(HEIGHT, WIDTH).segments
    plain = draw_segments(image, segments).width - WIDTH
    large = np.full((5 * HEIGHT, 5 * WIDTH, 3), GREY, np.uint8)
    enlarged = [Segment("the ball on the left", "expression", large[..., 0] > 0, 0.9)]
    assert draw_segments(large, enlarged).width - 5 * WIDTH > 2 * plain


def test_small_segments_have_a_row_on_request_only(image) -> None:
    sizes = (2, MIN_LEGEND_AREA - 1, MIN_LEGEND_AREA)
    segments = [Segment("dog", "thing", mask(slice(0, 1), slice(0, n)), 0.5) for n in sizes]
    overlay = Segmentation(image, segments).overlay
    drawn: list[list[str]] = []
    for min_area in (MIN_LEGEND_AREA, 0):
        rows = visualizer._select_rows(overlay.legend, min_area)
        drawn.append([row.text for row in rows])
    assert drawn == [["dog 0.50", "and 2 of fewer than 10 pixels"], ["dog 0.50"] * 3]
    default, every = (
        Segmentation(image, segments[:1] * 40).draw(min_area=n) for n in (MIN_LEGEND_AREA, 0)
    )
    assert default.height == HEIGHT < every.height
    absent = Segment("cat", "expression", mask(slice(0), slice(0)), 0.0)
    rows = visualizer._select_rows(Segmentation(image, [absent]).overlay.legend, 10)
    assert [row.text for row in rows] == ["cat: not found"]


@pytest.mark.parametrize(
    "name", ["", "\ud800", "\x00\x07\n", "\u202e abc", "\ufeff", "\u0301", "\ue000"]
)
def test_odd_names_are_drawn(image, name: str) -> None:
    everywhere = mask(slice(None), slice(None))
    drawing = Segmentation(image, [Segment(name, "thing", everywhere, 0.5)]).draw(name)
    assert drawing.height == HEIGHT and WIDTH < drawing.width <= WIDTH + MAX_LEGEND_WIDTH


def test_drawings_in_several_threads_are_equal(image) -> None:
    """A font holds the text that it has laid out last: threads must not share one."""
    everywhere = mask(slice(None), slice(None))
    result = Segmentation(
        image, [Segment(f"größe {i}", "thing", everywhere, 0.5) for i in range(9)]
    )
    first = np.asarray(result.draw())
    with ThreadPoolExecutor(4) as pool:
        drawings = list(pool.map(lambda _: np.asarray(result.draw()), range(16)))
    assert all(np.array_equal(drawing, first) for drawing in drawings)


def test_long_names_and_legends_are_bounded(image) -> None:
    endless = Segment("word " * 5000, "expression", mask(slice(9), slice(9)), 0.5)
    assert draw_segments(image, [endless]).height == HEIGHT
    many = draw_segments(image, [Segment("dog", "thing", endless.mask, 0.5)] * 300, notes=["end"])
    assert many.height < 205 * visualizer.LEGEND_ROW_HEIGHT


def test_letters_without_a_font_are_numbers_and_advice_is_one_line(
    image, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(text_drawing, "packaged_fonts", lambda: ())
    monkeypatch.setattr(text_drawing, "system_fonts", lambda: ())
    everywhere = mask(slice(None), slice(None))
    segments = [Segment(name, "thing", everywhere, 0.5) for name in ("größe", "狗", "犬 dog")]
    legend = Segmentation(image, segments).overlay.legend
    texts = [row.text for row in visualizer._select_rows(legend, 0)]
    assert texts == ["größe 0.50", "[2] 0.50", "[3] dog 0.50"]
    visualizer._warn_once.cache_clear()
    with caplog.at_level(logging.WARNING):
        drawings = [np.asarray(draw_segments(image, segments)) for _ in range(3)]
        contact_sheet([Image.new("RGB", (9, 9))], ["狗犬"], "狗犬")
    assert [record.getMessage() for record in caplog.records] == [
        'No font has the letters "狗犬" (U+72D7, U+72AC); '
        '"pip install noto-cjk-sans-otc" brings them.'
    ]
    assert np.array_equal(drawings[0], drawings[2])
    drawn_names = np.asarray(draw_segments(image, segments[:1]))
    assert not np.array_equal(drawings[0], drawn_names)
