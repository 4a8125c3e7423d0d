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
    MAX_SHEET_WIDTH,
    MIN_LEGEND_AREA,
    MIN_LEGEND_WIDTH,
    REJECTED_COLOUR,
    contact_sheet,
    draw_group,
    draw_segments,
    paint_segments,
    tag_colours,
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
    edge = slice(60, 110), slice(79, 81)
    red, green = (230, 25, 75), (60, 180, 75)
    for drawing, own, other in zip(drawn, (red, green), (green, red), strict=True):
        pixels = drawing[edge].astype(int)
        assert (abs(pixels - own).sum(2) < abs(pixels - other).sum(2)).all()


def test_colours_of_overlapping_segments_do_not_mix(image) -> None:
    """A part has its own colour over the image, whatever the colour of its whole."""
    pixels = mask(slice(50, 220), slice(80, 300))
    part = Segment("wheel", "part", pixels, 1)
    on_whole, alone = (
        paint_segments(image, [Segment("car", "thing", whole, 1, [part])]).canvas
        for whole in (pixels, np.zeros_like(pixels))
    )
    inside = slice(100, 150), slice(120, 250)
    assert np.array_equal(on_whole[inside], alone[inside])


def test_outlines_are_thin_and_smooth(image) -> None:
    """The line along a slanted outline has at most three strongly coloured pixels across."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    pixels = 2.7 * columns + rows < 1000
    canvas = paint_segments(image, [Segment("car", "thing", pixels, 1)]).canvas
    strength = (canvas[100:200, :, 1].astype(int) < 90).sum(1)
    assert (strength <= 3).all() and (strength >= 1).all()
    levels = np.unique(canvas[100:200, 150:450, 1])
    assert len(levels) > 8, "anti-aliased lines have intermediate colours"


def test_legend_takes_the_side_with_less_room() -> None:
    """A few names go below; many names go beside an image that is wide enough for a column."""
    large = np.full((1000, 1600, 3), GREY, np.uint8)
    pixels = np.zeros(large.shape[:2], bool)
    pixels[:400, :400] = True
    few, many, long = (
        [Segment(name, "thing", pixels, 0.5)] * count
        for name, count in (("car", 1), ("a name of some length", 30), ("a long name " * 20, 1))
    )
    assert draw_segments(large, few).width == large.shape[1]
    beside = draw_segments(large, many)
    assert beside.width > large.shape[1]
    for segments in (few, many, long):
        drawing = draw_segments(large, segments)
        assert drawing.width <= 1.4 * large.shape[1]
        assert drawing.width * drawing.height <= 1.3 * large.shape[0] * large.shape[1]


def test_drawings_without_segments_have_no_legend(image) -> None:
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
    coloured = (np.asarray(sheet) < 250).any(2).sum()
    share = (GROUP_IMAGE_HEIGHT / HEIGHT) ** 2
    assert coloured > 0.95 * share * 3 * HEIGHT * WIDTH
    assert coloured > 0.8 * sheet.width * sheet.height


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

    def ink(*notes: str, scores: bool) -> int:
        """Dark pixels below the image."""
        drawing = draw_segments(image, segments, scores=scores, notes=notes)
        return int((np.asarray(drawing)[HEIGHT:] < 100).all(2).sum())

    assert 0 < ink(scores=False) < ink(scores=True) < ink("a note that is longer", scores=True)


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
    assert drawing.width <= max(width, MAX_ENLARGED_SIDE)
    assert drawing.height <= max(height, MAX_ENLARGED_SIDE) + 200
    assert sheet.width <= MAX_SHEET_WIDTH and sheet.height <= 3 * (GROUP_IMAGE_HEIGHT + 90)
    assert (np.asarray(drawing) == GREY).all(2).sum() >= height * width // 4


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 900), st.integers(1, 900))
def test_legend_is_not_wider_than_the_image(height: int, width: int) -> None:
    result = strip(height, width)
    drawing, canvas = result.draw(), result.overlay.canvas
    if drawing.height == canvas.shape[0]:
        assert drawing.width - canvas.shape[1] <= 0.4 * canvas.shape[1]
    else:
        assert drawing.width <= max(canvas.shape[1], MIN_LEGEND_WIDTH)
    assert canvas.shape[0] % height == 0 and max(canvas.shape[:2]) <= MAX_ENLARGED_SIDE


@pytest.mark.parametrize(
    ("width", "least", "most"), [(200, 10, 30), (900, 10, 30), (4000, 40, 100)]
)
def test_names_are_readable_at_every_size(width: int, least: int, most: int) -> None:
    """The height of a name on the drawing, whose own size follows the image's."""
    image = np.full((3 * width // 4, width, 3), GREY, np.uint8)
    everywhere = Segment("ball", "thing", image[..., 0] > 0, 0.9)
    overlay = Segmentation(image, [everywhere]).overlay
    changed = (
        np.asarray(Segmentation(image, [everywhere]).draw())[: overlay.canvas.shape[0]]
        != overlay.canvas
    ).any(2)
    rows = np.flatnonzero(changed.any(1))
    assert least <= rows[-1] + 1 - rows[0] <= most


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
    assert HEIGHT < default.height < every.height
    absent = Segment("cat", "expression", mask(slice(0), slice(0)), 0.0)
    rows = visualizer._select_rows(Segmentation(image, [absent]).overlay.legend, 10)
    assert [row.text for row in rows] == ["cat: not found"]


@pytest.mark.parametrize(
    "name", ["", "\ud800", "\x00\x07\n", "\u202e abc", "\ufeff", "\u0301", "\ue000"]
)
def test_odd_names_are_drawn(image, name: str) -> None:
    everywhere = mask(slice(None), slice(None))
    drawing = Segmentation(image, [Segment(name, "thing", everywhere, 0.5)]).draw(name)
    assert drawing.width == WIDTH and HEIGHT < drawing.height <= HEIGHT + 80


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
    drawing = draw_segments(image, [endless])
    most = 12 * visualizer.LEGEND_ROW_HEIGHT
    assert drawing.width <= 1.4 * WIDTH and drawing.height <= HEIGHT + most
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


@pytest.mark.parametrize("index", range(20))
def test_names_contrast_with_their_background(index: int) -> None:
    """WCAG 2's contrast ratio for text is 4.5, computed here in float64 from its definition."""

    def luminance(colour: tuple[int, int, int]) -> float:
        channels = np.array(colour) / 255
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        return float(linear @ [0.2126, 0.7152, 0.0722])

    background, ink = tag_colours(visualizer.colour_of(index))
    light, dark = sorted((luminance(background), luminance(ink)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5


def test_names_are_drawn_on_their_segments_and_nowhere_else(image) -> None:
    """The name of a large segment is inside; that of a part is over the part."""
    part = Segment("wheel", "part", mask(slice(200, 300), slice(300, 420)), 0.9)
    car = Segment("car", "thing", mask(slice(60, 330), slice(60, 450)), 0.9, [part])
    overlay = Segmentation(image, [car]).overlay
    changed = (visualizer.draw_labels(overlay.canvas, overlay, 1.0) != overlay.canvas).any(2)
    assert changed[part.mask].any() and changed[car.mask & ~part.mask].any()
    assert not changed[~car.mask].any()


def test_long_expressions_are_shortened_on_the_image_only(image) -> None:
    text = "the small red car on the left of the tree that stands behind the house by the road"
    segment = Segment(text, "expression", mask(slice(60, 330), slice(60, 450)), 0.9)
    overlay = Segmentation(image, [segment]).overlay
    changed = (visualizer.draw_labels(overlay.canvas, overlay, 1.0) != overlay.canvas).any(2)
    columns = np.flatnonzero(changed.any(0))
    assert columns[-1] - columns[0] <= visualizer.MAX_LABEL_WIDTH * WIDTH
    assert overlay.legend[0].text == f"{text} 0.90"
