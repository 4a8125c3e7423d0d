"""Positions of labels: inside their segments or beside them, without overlap."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hipie.label_placement import LabelRequest, PlacedLabel, place_labels


def request(
    regions: np.ndarray, region: int, size: tuple[int, int], *, background: bool = False
) -> LabelRequest:
    cells = regions == region
    rows, columns = np.flatnonzero(cells.any(1)), np.flatnonzero(cells.any(0))
    box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return LabelRequest(region, size, box, int(cells.sum()), background)


def cells_of(place: PlacedLabel, size: tuple[int, int], shape: tuple[int, int]) -> np.ndarray:
    cells = np.zeros(shape, bool)
    (x, y), (width, height) = place.corner, size
    cells[y : y + height, x : x + width] = True
    assert cells.sum() == width * height, "inside the image"
    return cells


def test_label_is_inside_a_large_segment_at_its_middle() -> None:
    regions = np.zeros((100, 200), np.int32)
    regions[20:80, 40:160] = 1
    (place,) = place_labels(regions, [request(regions, 1, (30, 8))])
    assert place is not None and place.leader is None
    assert abs(place.corner[0] + 15 - 100) < 20 and abs(place.corner[1] + 4 - 50) < 10


def test_label_avoids_the_hole_that_another_segment_covers() -> None:
    regions = np.zeros((100, 200), np.int32)
    regions[10:90, 10:190] = 1
    regions[35:65, 60:140] = 2
    requests = [request(regions, number, (30, 8)) for number in (1, 2)]
    for place, wanted in zip(place_labels(regions, requests), (1, 2), strict=True):
        assert place is not None
        assert (regions[cells_of(place, (30, 8), regions.shape)] == wanted).all()


def test_small_segments_have_leader_lines_that_end_in_them() -> None:
    """On an image full of things the label goes where it hides few, and a line leads back."""
    regions = np.zeros((120, 160), np.int32)
    regions[40:80, 60:100] = np.arange(2, 18).reshape(4, 4).repeat(10, 0).repeat(10, 1)
    requests = [request(regions, number, (26, 8)) for number in range(2, 18)]
    places = place_labels(regions, requests)
    with_leader = [
        (place, entry)
        for place, entry in zip(places, requests, strict=True)
        if place is not None and place.leader is not None
    ]
    assert with_leader
    for place, entry in with_leader:
        (start_x, start_y), (x, y) = place.leader
        assert regions[y, x] == entry.region
        assert cells_of(place, entry.size, regions.shape)[start_y, start_x]


def test_stuff_and_labels_without_room_are_left_out() -> None:
    regions = np.zeros((40, 60), np.int32)
    regions[10:13, 10:13] = 1
    places = place_labels(
        regions,
        [request(regions, 1, (20, 8), background=True), request(regions, 1, (61, 8))],
    )
    assert places == [None, None]


def test_whole_that_its_parts_cover_is_labelled_at_its_top() -> None:
    regions = np.zeros((100, 100), np.int32)
    regions[40:60, 30:50], regions[40:60, 50:70] = 2, 3
    whole = LabelRequest(1, (18, 8), (30, 40, 70, 60), 800)
    place, *_ = place_labels(regions, [whole, *(request(regions, n, (12, 6)) for n in (2, 3))])
    assert place is not None
    assert place.corner[1] < 40 and 20 < place.corner[0] + 9 < 80


@given(st.integers(0, 10**6), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_labels_never_overlap_labels_or_leader_lines(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    regions = np.zeros((90, 120), np.int32)
    for number in range(1, count + 1):
        y, x = rng.integers(0, 80), rng.integers(0, 110)
        regions[y : y + rng.integers(1, 40), x : x + rng.integers(1, 50)] = number
    present = [n for n in range(1, count + 1) if (regions == n).any()]
    requests = [
        request(regions, n, (int(rng.integers(4, 40)), 7), background=bool(n % 3 == 0))
        for n in present
    ]
    taken = np.zeros(regions.shape, int)
    for place, entry in zip(place_labels(regions, requests), requests, strict=True):
        if place is not None:
            taken += cells_of(place, entry.size, regions.shape)
    assert taken.max(initial=0) <= 1
