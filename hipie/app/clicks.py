"""Prompts of the tab Click: points, boxes and scribbles, with undo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from hipie.errors import InputError

INSIDE, OUTSIDE, BOX, SCRIBBLE = "Point on it", "Point beside it", "Box", "Scribble"
KINDS = (INSIDE, OUTSIDE, BOX, SCRIBBLE)
# Colours of points and strokes on the object, beside it, and of boxes.
GREEN, RED, BLUE = (0, 200, 0), (230, 0, 0), (0, 110, 230)

Point = tuple[float, float]


@dataclass(frozen=True)
class Clicks:
    """Prompts of one object; every change returns another object.

    Attributes:
        marks: kind and pixel of each click, in their order. Two clicks make a box; clicks of a
            scribble that follow each other are its vertices.
    """

    marks: tuple[tuple[str, Point], ...] = ()

    def add(self, kind: str, x: float, y: float, size: tuple[int, int]) -> Clicks:
        """Add a click.

        Args:
            kind: one of `KINDS`.
            x: pixels from the left.
            y: pixels from the top.
            size: (height, width) of the image.

        Raises:
            InputError: for a click outside of the image, or an unknown kind.
        """
        height, width = size
        if kind not in KINDS:
            raise InputError(f'a prompt is one of {", ".join(KINDS)}, not "{kind}"')
        if not (0 <= x < width and 0 <= y < height):
            raise InputError(f"({x:g}, {y:g}) is outside of the image of {width} x {height} pixels")
        return replace(self, marks=(*self.marks, (kind, (float(x), float(y)))))

    def undo(self) -> Clicks:
        """Remove the last click."""
        return replace(self, marks=self.marks[:-1])

    @property
    def is_complete(self) -> bool:
        """Whether there is something to segment: no box has one corner only."""
        prompt = self.prompt()
        has_more = bool(prompt["inside"] or prompt["scribbles"] or prompt["box"])
        return has_more and len(self._points(BOX)) % 2 == 0

    def _points(self, kind: str) -> list[Point]:
        return [point for mark, point in self.marks if mark == kind]

    def strokes(self) -> list[list[Point]]:
        """Scribbles: clicks of this kind that follow each other, two at least."""
        strokes: list[list[Point]] = []
        previous = ""
        for kind, point in self.marks:
            if kind == SCRIBBLE:
                if previous != SCRIBBLE:
                    strokes.append([])
                strokes[-1].append(point)
            previous = kind
        return [stroke for stroke in strokes if len(stroke) > 1]

    def box(self) -> tuple[float, float, float, float] | None:
        """The box of the last two clicks of this kind; None without."""
        corners = self._points(BOX)
        corners = corners[: len(corners) // 2 * 2][-2:]
        if not corners:
            return None
        (x1, y1), (x2, y2) = corners
        return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)

    def prompt(self) -> dict[str, Any]:
        """The prompt for `Segmenter.prompt`."""
        return {
            "inside": self._points(INSIDE),
            "outside": self._points(OUTSIDE),
            "box": self.box(),
            "scribbles": self.strokes(),
        }

    def draw(self, image: NDArray[Any]) -> NDArray[Any]:
        """Draw the prompts on a copy of an image [H, W, 3]."""
        canvas = np.ascontiguousarray(image.copy())
        width = max(2, round(max(image.shape[:2]) / 250))
        for kind, point in self.marks:
            colour = {OUTSIDE: RED, BOX: BLUE}.get(kind, GREEN)
            centre = _pixel(point)
            cv2.circle(canvas, centre, 2 * width, (255, 255, 255), -1)
            cv2.circle(canvas, centre, 2 * width - 1, colour, -1)
        for stroke in self.strokes():
            vertices: Sequence[Any] = [np.array([_pixel(point) for point in stroke], np.int32)]
            cv2.polylines(canvas, vertices, False, GREEN, width)
        if box := self.box():
            cv2.rectangle(canvas, _pixel(box[:2]), _pixel(box[2:]), BLUE, width)
        return canvas


def _pixel(point: tuple[float, ...]) -> tuple[int, int]:
    return int(point[0]), int(point[1])
