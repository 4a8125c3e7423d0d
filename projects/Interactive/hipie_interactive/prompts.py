"""What a user points at, and what SAM is told of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from hipie_interactive.click_sampler import deepest
from hipie_interactive.scribbles import stroke_points

Point = tuple[float, float]


class PromptError(ValueError):
    """A prompt that cannot be meant; the message says what is wrong with it."""


@dataclass(frozen=True)
class Scribble:
    """A stroke over the object, or over what is not the object.

    Attributes:
        points: x and y of its corners, in pixels of the image.
        inside: whether it runs over the object.
    """

    points: Sequence[Point]
    inside: bool = True


@dataclass(frozen=True)
class Prompt:
    """Everything that is said of one object; all in pixels of the image, x before y.

    Attributes:
        inside: points on the object.
        outside: points that are not.
        box: x1, y1, x2, y2 around it.
        scribbles: strokes.
        polygon: corners of its rough outline.
        label: how the answer is called.
    """

    inside: Sequence[Point] = ()
    outside: Sequence[Point] = ()
    box: tuple[float, float, float, float] | None = None
    scribbles: Sequence[Scribble] = ()
    polygon: Sequence[Point] = ()
    label: str = "object"


@dataclass(frozen=True)
class Told:
    """A prompt in SAM's terms.

    Attributes:
        points: [P, 2] x and y.
        labels: [P] 1 = inside, 0 = outside.
        box: [4], or None.
        mask: [H, W] bool, or None.
    """

    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def ambiguous(self) -> bool:
        """A lone click may mean a thing, a part of it, or a part of that."""
        return len(self.points) == 1 and self.box is None and self.mask is None


def told(prompt: Prompt, size: tuple[int, int], again: bool = False) -> Told:
    """Bring a prompt into SAM's terms.

    A scribble becomes points (see `stroke_points`); a polygon becomes its box, its area as mask,
    and a click at the centre of its largest inscribed circle.

    Args:
        prompt: at least one of its fields is filled.
        size: (height, width) of the image.
        again: it adds to earlier prompts of the same object, so that it may name the outside alone.

    Raises:
        PromptError: for a prompt that says nothing or nothing of what is inside, a point outside
            the image, a pixel said to be both inside and outside, a box without an area, a
            polygon without one, two boxes.
    """
    places = list(_places(prompt, size))
    box, mask = prompt.box, None
    if len(prompt.polygon):
        if box is not None:
            raise PromptError("a prompt has a box or a polygon, which brings its own box")
        mask = polygon_mask(prompt.polygon, size)
        places.append((*deepest(mask), 1))
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    points = np.array([place[:2] for place in places], float).reshape(-1, 2)
    labels = np.array([place[2] for place in places], int)
    if box is None and not len(points):
        raise PromptError("a prompt needs a click, a box, a scribble or a polygon")
    if box is None and not labels.any() and not again:
        raise PromptError(
            "a prompt with nothing but outside points does not say where the object is"
        )
    _refuse_contradictions(points, labels)
    return Told(points, labels, None if box is None else _checked_box(box, size), mask)


def polygon_mask(polygon: Sequence[Point], size: tuple[int, int]) -> np.ndarray:
    """The area of a polygon, cut at the image's border.

    Returns:
        [H, W] bool; pixels on its outline are inside.

    Raises:
        PromptError: for fewer than three corners, or nothing of it in the image.
    """
    corners = np.asarray(polygon, float)
    if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 3:
        raise PromptError(f"a polygon needs three corners (x, y) or more, and this is {polygon}")
    if not np.isfinite(corners).all():
        raise PromptError(f"a polygon's corners have to be finite numbers, and this is {polygon}")
    canvas = np.zeros(size, np.uint8)
    reach = 4 * max(size)
    cv2.fillPoly(canvas, [np.floor(corners.clip(-reach, reach)).astype(np.int32)], 1)
    if not canvas.any():
        raise PromptError(f"the polygon lies outside the image, {_of(size)}")
    return canvas.astype(bool)


def _places(prompt: Prompt, size: tuple[int, int]) -> Iterator[tuple[float, float, int]]:
    """x, y and label of every point that was clicked or drawn."""
    drawn = [(prompt.inside, 1, "click"), (prompt.outside, 0, "click")]
    drawn += [(one.points, int(one.inside), "scribble") for one in prompt.scribbles]
    for given, label, kind in drawn:
        if not len(given):
            if kind == "scribble":
                raise PromptError("a scribble needs at least one point")
            continue
        points = np.asarray(given, float)
        if points.ndim != 2 or points.shape[1] != 2:
            raise PromptError(f"the points of a {kind} are pairs (x, y), and these are {given}")
        _refuse_outside(points, size, kind)
        for x, y in stroke_points(points, size) if kind == "scribble" else points:
            yield float(x), float(y), label


def _refuse_outside(points: np.ndarray, size: tuple[int, int], kind: str) -> None:
    height, width = size
    fits = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    if not fits.all():
        x, y = points[~fits][0]
        raise PromptError(f"the {kind} at ({x:g}, {y:g}) is outside the image, {_of(size)}")


def _refuse_contradictions(points: np.ndarray, labels: np.ndarray) -> None:
    said: dict[tuple[int, int], int] = {}
    for (x, y), label in zip(np.floor(points).astype(int).tolist(), labels.tolist(), strict=True):
        if said.setdefault((x, y), label) != label:
            raise PromptError(f"the pixel ({x}, {y}) is said to be both inside and outside")


def _checked_box(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    corners = np.asarray(box, float)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise PromptError(f"a box is four numbers x1, y1, x2, y2, and this is {box}")
    x1, y1, x2, y2 = corners
    shown = f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if x2 <= x1 or y2 <= y1:
        raise PromptError(f"{shown} has no area: it is x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    if x2 <= 0 or y2 <= 0 or x1 >= size[1] or y1 >= size[0]:
        raise PromptError(f"{shown} is outside the image, {_of(size)}")
    return corners


def _of(size: tuple[int, int]) -> str:
    return f"which is {size[1]} pixels wide and {size[0]} high"
