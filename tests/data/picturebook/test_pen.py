from __future__ import annotations

import numpy as np
import pytest

from hipie.data.picturebook.classes import PATTERNS, THINGS
from hipie.data.picturebook.drawings import DRAWINGS
from hipie.data.picturebook.pen import COAT, Pen, ellipse_points, smooth


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing.name)
def test_a_drawing_fills_its_box_and_shows_its_parts(thing) -> None:
    for seed in range(4):
        rng = np.random.default_rng(seed)
        pen = Pen(90, thing.aspect, "red", "plain", rng, flip=bool(seed % 2))
        DRAWINGS[thing.name](pen, rng)
        sprite = pen.to_sprite()
        rows = np.flatnonzero((sprite.labels > 0).any(1))
        columns = np.flatnonzero((sprite.labels > 0).any(0))
        assert abs(rows[-1] - sprite.foot[1]) <= 5
        assert 75 <= rows[-1] - rows[0] + 1 <= 105
        assert 0.72 * 90 * thing.aspect <= columns[-1] - columns[0] + 1 <= 1.22 * 90 * thing.aspect
        drawn = {name for name, _ in sprite.parts}
        assert drawn == ({part.name for part in thing.parts} or {"whole"})
        shown = set(np.unique(sprite.labels)) - {0}
        assert {sprite.parts[label - 1][0] for label in shown} == drawn


def test_parts_of_parts_are_held_by_the_part_of_that_name() -> None:
    person = next(thing for thing in THINGS if thing.name == "person")
    pen = Pen(120, person.aspect, "blue", "plain", np.random.default_rng(0))
    DRAWINGS["person"](pen, np.random.default_rng(0))
    parts = pen.to_sprite().parts
    held = {name: parts[parent][0] for name, parent in parts if parent >= 0}
    assert held == {"eye": "head", "mouth": "head"}


def test_cover_is_at_least_half_exactly_where_labelled() -> None:
    pen = Pen(40, 1.0, "green", "dotted", np.random.default_rng(3))
    pen.part("whole")
    pen.ellipse((0.5, 0.5), (0.5, 0.5), COAT)
    sprite = pen.to_sprite()
    assert np.array_equal(sprite.labels > 0, sprite.alpha >= 0.5)
    assert np.pi * 20**2 * 0.95 < (sprite.labels > 0).sum() < np.pi * 22**2


def test_patterns_change_colours_and_not_shapes() -> None:
    drawn = {}
    for pattern in PATTERNS:
        pen = Pen(60, 1.0, "blue", pattern, np.random.default_rng(5))
        pen.part("whole")
        pen.box(0, 0, 1, 1, COAT)
        drawn[pattern] = pen.to_sprite()
    shades = {
        name: np.unique(s.colours[30:50, 30:50].reshape(-1, 3), axis=0) for name, s in drawn.items()
    }
    assert len(shades["plain"]) == 1
    assert len(shades["striped"]) > 1 and len(shades["dotted"]) > 1
    assert np.array_equal(drawn["plain"].labels, drawn["dotted"].labels)


def test_flip_mirrors_and_tilt_turns_about_the_foot() -> None:
    def mark(**how) -> np.ndarray:
        pen = Pen(80, 1.0, "red", "plain", np.random.default_rng(0), **how)
        pen.part("whole")
        pen.box(0.6, 0.0, 1.0, 0.4, COAT)
        return np.argwhere(pen.to_sprite().labels > 0).mean(0)

    straight, flipped, turned = mark(), mark(flip=True), mark(tilt=0.2)
    middle = (np.array([straight, flipped]).mean(0))[1]
    assert straight[0] == pytest.approx(flipped[0], abs=0.6)
    assert straight[1] - middle == pytest.approx(0.3 * 80, abs=1)
    assert turned[1] > straight[1] and turned[0] > straight[0]


def test_smooth_passes_through_its_points() -> None:
    corners = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    assert np.allclose(smooth(corners, True, 6)[::6], corners)
    assert np.allclose(smooth(corners, False, 6)[-1], corners[-1])
    assert np.allclose(np.hypot(*(ellipse_points((1, 2), (3, 3)) - (1, 2)).T), 3)
