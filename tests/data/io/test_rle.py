from __future__ import annotations

import itertools
import tracemalloc
from fractions import Fraction

import numpy as np
import pytest

from hipie.data.io import rle
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


def crossings(points: list[float]) -> bool:
    """Whether two sides of a polygon cross properly, in exact arithmetic."""
    corners = [(Fraction(x), Fraction(y)) for x, y in zip(points[0::2], points[1::2], strict=True)]
    sides = list(zip(corners, corners[1:] + corners[:1], strict=True))

    def orientation(a, b, c):
        return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])

    return any(
        orientation(*p, q[0]) * orientation(*p, q[1]) < 0
        and orientation(*q, p[0]) * orientation(*q, p[1]) < 0
        for p, q in itertools.combinations(sides, 2)
    )


@pytest.mark.parametrize("count", [3, 5, 40, 90])
def test_crossing_of_random_polygons(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(rle, "SIDES_PER_BLOCK", 7)
    generator = np.random.default_rng(count)
    angles = np.sort(generator.uniform(0, 2 * np.pi, count))
    results = set()
    for swapped in (0, 0, 1, 1):
        radius = generator.uniform(5, 9, count)
        star = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1).round(3)
        star[[0, swapped * count // 2]] = star[[swapped * count // 2, 0]]
        points = star.ravel().tolist()
        results.add(crossings(points))
        assert is_self_intersecting(points) is crossings(points)
    assert count < 40 or results == {False, True}


def test_polygons_of_many_corners_need_little_memory() -> None:
    angles = np.linspace(0, 2 * np.pi, 30_000, endpoint=False)
    radius = 400 + 5 * np.sin(900 * angles)
    points = np.stack([radius * np.cos(angles), radius * np.sin(angles)], 1)
    tracemalloc.start()
    assert not is_self_intersecting(points.ravel().tolist())
    points[[10_000, 22_000]] = points[[22_000, 10_000]]
    assert is_self_intersecting(points.ravel().tolist())
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 40_000_000
