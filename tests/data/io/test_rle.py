from __future__ import annotations

import pytest

from hipie.data.io.rle import is_polygon, is_self_intersecting


@pytest.mark.parametrize(
    ("points", "crosses"),
    [
        ([0, 0, 2, 0, 2, 2, 0, 2], False),
        ([0, 0, 2, 2, 2, 0, 0, 2], True),
        ([0, 0, 2, 0, 1, 1], False),
        ([0, 0, 4, 0, 4, 4, 2, 0, 0, 4], False),
        ([0, 0, 4, 0, 4, 4, 2, -1, 0, 4], True),
        ([0, 0, 4, 0, 4, 0, 0, 0], False),
        ([0, 0, 4, 0, 2, 0, 2, 3], False),
    ],
)
def test_crossing(points: list[float], crosses: bool) -> None:
    assert is_self_intersecting(points) is crosses
    assert is_self_intersecting(points[2:] + points[:2]) is crosses


@pytest.mark.parametrize(
    ("points", "good"),
    [
        ([0, 0, 1, 0, 1, 1], True),
        ([0, 0, 1, 0], False),
        ([0, 0, 1, 0, 1], False),
        ([0, 0, 1, 0, 1, float("inf")], False),
        ([], False),
    ],
)
def test_is_polygon(points: list[float], good: bool) -> None:
    assert is_polygon(points) is good
