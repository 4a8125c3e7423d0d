"""Points of scribbles are on the scribble and far from each other."""

from __future__ import annotations

import numpy as np
import pytest

from hipie_interactive.modeling.prompts import (
    farthest_point_sampling,
    resample_by_arc_length,
    scribble_points,
)

SIZE = (100, 160)


def distance_to_polyline(point, polyline):
    """Compute the distance of a point to the nearest segment of a polyline."""
    result = []
    for a, b in zip(polyline[:-1], polyline[1:]):
        along = np.clip(np.dot(point - a, b - a) / max(np.dot(b - a, b - a), 1e-12), 0, 1)
        result.append(np.hypot(*(point - a - along * (b - a))))
    return min(result)


@pytest.mark.parametrize("seed", range(5))
def test_points_are_on_the_scribble(seed):
    scribble = np.random.default_rng(seed).random((6, 2)) * (160, 100)
    points = scribble_points(scribble, SIZE)
    assert 3 <= len(points) <= 10
    assert max(distance_to_polyline(point, scribble) for point in points) < 1e-6


def test_samples_have_equal_distances():
    samples, length = resample_by_arc_length(np.array([[0, 0], [30, 0], [30, 10]]))
    assert length == 40
    steps = np.abs(np.diff(samples, axis=0)).sum(1)
    np.testing.assert_allclose(steps, steps[0])


def test_straight_scribble_gives_its_midpoint_then_its_ends():
    points = scribble_points(np.array([[10.0, 50.0], [50.0, 50.0]]), SIZE)
    np.testing.assert_allclose(points[0], [30, 50])
    assert {tuple(p) for p in points[1:3].tolist()} == {(10, 50), (50, 50)}


def test_longer_scribbles_get_more_points():
    lengths = (5, 45, 75, 150)
    counts = [len(scribble_points(np.array([[0.0, 0], [x, 0]]), SIZE)) for x in lengths]
    assert counts == [3, 5, 8, 10]


def test_scribble_of_length_zero_is_one_point():
    assert scribble_points(np.array([[4, 5]]), SIZE).tolist() == [[4, 5]]
    assert scribble_points(np.array([[4, 5], [4, 5]]), SIZE).tolist() == [[4, 5]]


def test_retraced_scribble_has_distinct_points():
    scribble = np.array([[10.0, 10], [90, 10], [10, 10]])
    points = scribble_points(scribble, SIZE)
    apart = np.hypot(*(points[:, None] - points[None]).transpose(2, 0, 1))
    assert apart[~np.eye(len(points), dtype=bool)].min() > 80 / (2 * len(points))


def test_each_sample_is_the_farthest_from_those_before():
    samples = np.random.default_rng(0).random((30, 2))
    order = farthest_point_sampling(samples, 6)
    for k in range(1, 6):
        gaps = np.hypot(*(samples[:, None] - samples[order[:k]][None]).transpose(2, 0, 1)).min(1)
        assert gaps[order[k]] == gaps.max()
