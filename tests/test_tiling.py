"""Segmentation tile by tile, by a segmenter that knows the colour of every class."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from hipie.errors import InputError
from hipie.segmentation import RleSegment, Segment, Segmentation
from hipie.tiling import check_tiling, encode_crop, segment_tiles, tile_starts, tiles_of

THING, PART, GRASS = 200, 250, 50


def segment(pixels: np.ndarray) -> Segmentation:
    """Segment connected bright regions as dogs, their brightest pixels as heads, grey as grass."""
    value = pixels[..., 0]
    count, labels = cv2.connectedComponents((value >= THING).astype(np.uint8), connectivity=4)
    segments = []
    for number in range(1, count):
        mask = labels == number
        head = Segment("head", "part", mask & (value == PART), 0.5)
        segments.append(Segment("dog", "thing", mask, 0.75, (head,) if head.area else ()))
    if (value == GRASS).any():
        segments.append(Segment("grass", "stuff", value == GRASS, 0.25))
    return Segmentation(pixels, segments, ("dog", "grass"))


def image(height: int, width: int, boxes=(), parts=()) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[height // 2 :] = GRASS
    for value, rectangles in ((THING, boxes), (PART, parts)):
        for top, left, bottom, right in rectangles:
            pixels[top:bottom, left:right] = value
    return pixels


def by_mask(result: Segmentation) -> dict[bytes, tuple]:
    """Return label, kind, score and parts of each segment by its mask."""
    return {
        one.mask.tobytes(): (
            one.label,
            one.kind,
            one.score,
            {part.label: part.mask.tobytes() for part in one.parts},
        )
        for one in result
    }


def test_an_image_of_one_tile_has_the_plain_result():
    pixels = image(64, 60, [(3, 5, 20, 30)])
    calls = []

    def call(part):
        calls.append(part is pixels)
        return segment(part)

    assert segment_tiles(pixels, call, 64) == segment(pixels) and calls == [True]


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5])
@pytest.mark.parametrize("exclusive", [True, False])
def test_an_object_across_seams_comes_out_as_one(overlap, exclusive):
    pixels = image(150, 170, [(20, 10, 120, 165), (130, 5, 140, 60)], [(25, 30, 100, 150)])
    result = segment_tiles(pixels, segment, 64, overlap, exclusive=exclusive)
    assert result.labels.count("dog") == 2 and result.labels.count("grass") == 1
    assert by_mask(result) == by_mask(segment(pixels))
    assert result.class_names == ("dog", "grass") and result.image is pixels


@st.composite
def planted(draw):
    """Draw an image with rectangles in the cells of a grid, which do not touch."""
    height, width = draw(st.integers(20, 130)), draw(st.integers(20, 130))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    boxes = []
    for row in range(rows):
        for column in range(columns):
            top, bottom = (height * row) // rows + 1, (height * (row + 1)) // rows - 1
            left, right = (width * column) // columns + 1, (width * (column + 1)) // columns - 1
            y = sorted(draw(st.lists(st.integers(top, bottom), min_size=2, max_size=2)))
            x = sorted(draw(st.lists(st.integers(left, right), min_size=2, max_size=2)))
            if y[0] < y[1] and x[0] < x[1]:
                boxes.append((y[0], x[0], y[1], x[1]))
    return image(height, width, boxes)


@settings(max_examples=25, deadline=None)
@given(planted(), st.integers(32, 60), st.sampled_from([0, 0.1, 0.25, 0.5]), st.booleans())
def test_tiles_give_the_segments_of_the_whole_image(pixels, size, overlap, exclusive):
    result = segment_tiles(pixels, segment, size, overlap, exclusive=exclusive)
    assert by_mask(result) == by_mask(segment(pixels))


def test_two_things_of_one_tile_stay_two():
    """Another tile sees them as one, and its thing joins the one that agrees more."""

    def call(part):
        whole = np.zeros(part.shape[:2], bool)
        whole[10:30] = True
        if part[0, 0, 0] == 1:
            upper, lower = whole.copy(), whole.copy()
            upper[24:], lower[:24] = False, False
            return Segmentation(part, [Segment("dog", "thing", m, 0.5) for m in (upper, lower)])
        return Segmentation(part, [Segment("dog", "thing", whole, 0.5)])

    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[0, 0] = 1
    result = segment_tiles(pixels, call, 64, 0.5, exclusive=False)
    assert [one.box for one in result] == [(0, 10, 96, 30), (0, 24, 64, 30)]


def test_tiles_vote_where_they_disagree():
    """The better score and the distance from the border of the tile decide."""
    scores = {1: ("grass", 0.9), 2: ("sky", 0.3)}

    def call(part):
        label, score = scores[int(part[0, 0, 0])]
        mask = np.ones(part.shape[:2], bool)
        return Segmentation(part, [Segment(label, "stuff", mask, score)], ("grass", "sky"))

    pixels = np.ones((64, 96, 3), np.uint8)
    pixels[:, 32:] = 2
    result = segment_tiles(pixels, call, 64, 0.5)
    grass, sky = result.segments
    assert (grass.label, sky.label) == ("grass", "sky")
    assert (grass.mask ^ sky.mask).all()
    columns = grass.mask.any(0)
    assert columns[:56].all() and not columns[57:].any()
    scores[2] = ("sky", 0.9)
    columns = segment_tiles(pixels, call, 64, 0.5).segments[0].mask.any(0)
    assert columns[:48].all() and not columns[48:].any()


def test_memory_grows_with_the_output_map_only():
    peaks = []
    for side in (512, 1024):
        boxes = [(y, x, y + 50, x + 70) for y in range(5, 450, 150) for x in range(5, 420, 150)]
        pixels = image(side, side, boxes)
        tracemalloc.start()
        result = segment_tiles(pixels, segment, 128, 0.25)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert result.labels.count("dog") == len(boxes)
    bytes_of_map = 4 * (1024**2 - 512**2)
    assert peaks[1] - peaks[0] < 1.25 * bytes_of_map


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 4), st.integers(0, 4), st.data())
def test_crops_are_encoded_as_in_the_whole_image(height, width, top, left, data):
    shape = (
        height + top + data.draw(st.integers(0, 3)),
        width + left + data.draw(st.integers(0, 3)),
    )
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    crop = np.array(bits).reshape(height, width)
    mask = np.zeros(shape, np.uint8, order="F")
    mask[top : top + height, left : left + width] = crop
    assert encode_crop(crop, top, left, shape) == coco_mask.encode(mask)


@given(st.integers(1, 500), st.integers(32, 100), st.floats(0, 0.5))
def test_tiles_cover_a_side_and_overlap(length, size, share):
    overlap = check_tiling(size, share)
    starts = tile_starts(length, size, overlap)
    ends = [min(start + size, length) for start in starts]
    assert starts[0] == 0 and ends[-1] == length and starts == sorted(set(starts))
    for end, start in zip(ends, starts[1:]):
        assert end - start >= overlap
    assert len(tiles_of(length, 10, size, overlap)) == len(starts)


@pytest.mark.parametrize(
    ("size", "overlap", "message"),
    [
        (31, 0.25, "tile has to be a number of pixels from 32, not 31"),
        ("64", 0.25, "tile has to be"),
        (64, 0.51, r"overlap has to be a share in 0 to 0\.5, not 0\.51"),
        (64, float("nan"), "overlap has to be"),
    ],
)
def test_tiles_that_cannot_be_used_are_refused(size, overlap, message):
    with pytest.raises(InputError, match=message):
        segment_tiles(image(40, 40), segment, size, overlap)


def test_segments_with_run_lengths_are_those_with_masks():
    mask = np.zeros((6, 7), bool)
    mask[1:4, 2:5] = True
    plain = Segment("dog", "thing", mask, 0.5, (Segment("head", "part", mask, 0.25),))
    packed = RleSegment("dog", "thing", mask, 0.5, plain.parts)
    assert packed == plain and packed.rle == plain.rle
    assert (packed.area, packed.box) == (plain.area, plain.box)
    assert RleSegment("dog", "thing", plain.rle, 0.5, plain.parts) == plain
    changed = replace(packed, label="cat", parts=())
    assert changed == Segment("cat", "thing", mask, 0.5)
    empty = RleSegment("dog", "thing", np.zeros((6, 7), bool), 0.5)
    assert (empty.area, empty.box) == (0, (0.0, 0.0, 0.0, 0.0))
