"""Prompts of the tab Click."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.app.clicks import BLUE, BOX, GREEN, INSIDE, OUTSIDE, RED, SCRIBBLE, Clicks
from hipie.errors import InputError

SIZE = (50, 80)


def clicks(*marks: tuple[str, int, int]) -> Clicks:
    result = Clicks()
    for kind, x, y in marks:
        result = result.add(kind, x, y, SIZE)
    return result


def test_marks_become_a_prompt_in_the_order_of_the_clicks():
    marks = clicks(
        (INSIDE, 1, 2),
        (SCRIBBLE, 10, 10),
        (SCRIBBLE, 20, 12),
        (OUTSIDE, 3, 4),
        (BOX, 60, 40),
        (BOX, 5, 8),
        (SCRIBBLE, 30, 30),
        (SCRIBBLE, 31, 35),
        (SCRIBBLE, 33, 36),
    )
    assert marks.prompt() == {
        "inside": [(1, 2)],
        "outside": [(3, 4)],
        "box": (5, 8, 60, 40),
        "scribbles": [[(10, 10), (20, 12)], [(30, 30), (31, 35), (33, 36)]],
    }
    assert marks.is_complete


@pytest.mark.parametrize(
    ("marks", "complete"),
    [
        ([], False),
        ([(OUTSIDE, 1, 1)], False),
        ([(BOX, 1, 1)], False),
        ([(SCRIBBLE, 1, 1)], False),
        ([(INSIDE, 1, 1), (BOX, 5, 5)], False),
        ([(INSIDE, 1, 1)], True),
        ([(BOX, 1, 1), (BOX, 9, 9)], True),
        ([(SCRIBBLE, 1, 1), (SCRIBBLE, 5, 5)], True),
    ],
)
def test_a_prompt_is_complete_when_it_says_where_the_object_is(marks, complete):
    assert clicks(*marks).is_complete is complete


def test_undo_removes_the_last_click():
    marks = clicks((INSIDE, 1, 2), (OUTSIDE, 3, 4))
    assert marks.undo() == clicks((INSIDE, 1, 2))
    assert marks.undo().undo().undo() == Clicks()


@pytest.mark.parametrize(("x", "y"), [(-1, 0), (80, 0), (0, 50), (float("nan"), 1)])
def test_clicks_outside_of_the_image_are_refused(x, y):
    with pytest.raises(InputError, match="is outside of the image of 80 x 50 pixels"):
        Clicks().add(INSIDE, x, y, SIZE)


def test_kinds_are_checked():
    with pytest.raises(InputError, match='not "Line"'):
        Clicks().add("Line", 1, 1, SIZE)


def test_prompts_are_drawn_on_a_copy():
    image = np.zeros((*SIZE, 3), np.uint8)
    marks = clicks((INSIDE, 10, 10), (OUTSIDE, 30, 10), (BOX, 40, 30), (BOX, 70, 45))
    drawn = marks.draw(image)
    assert tuple(drawn[10, 10]) == GREEN and tuple(drawn[10, 30]) == RED
    assert tuple(drawn[30, 55]) == BLUE and not image.any()
