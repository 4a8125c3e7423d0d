"""Prompts of a user, and their conversion to SAM's points, boxes and masks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch

from hipie.box_ops import masks_to_boxes
from hipie.errors import InputError, describe
from hipie_interactive.modeling.click_sampler import region_centre

Point = tuple[float, float]

# Points of a scribble: one for each such fraction of the image's longer side, within limits.
SCRIBBLE_SPACING = 1 / 16
MIN_SCRIBBLE_POINTS, MAX_SCRIBBLE_POINTS = 3, 10
# Root of the sum of squares of the vertices' distances from the line that fits them best, in
# pixels, below which they are on that line.
MIN_POLYGON_SPREAD = 0.5


class PromptError(InputError):
    """An invalid prompt; the message names the fault."""


@dataclass(frozen=True)
class Scribble:
    """A stroke on the object or on the background.

    Attributes:
        points: x and y of its vertices, in pixels of the image.
        inside: whether it is on the object.
    """

    points: Sequence[Point]
    inside: bool = True

    @classmethod
    def parse(cls, scribble: Scribble | Mapping[str, Any] | Sequence[Point]) -> Scribble:
        """Return a scribble, built from its fields in a mapping or from points on the object.

        Raises:
            PromptError: for an unknown field, or an `inside` that is neither true nor false.
        """
        if isinstance(scribble, Mapping):
            _require_fields(cls, scribble, "scribble")
            scribble = cls(**{"points": (), **scribble})
        elif not isinstance(scribble, Scribble):
            scribble = cls(scribble)
        if not isinstance(scribble.inside, bool | np.bool_) and scribble.inside not in (0, 1):
            raise PromptError(
                "inside of a scribble is True (on the object) or False (on the background), not "
                f"{describe(scribble.inside)}"
            )
        return scribble


@dataclass(frozen=True)
class Prompt:
    """Prompt for one object, in pixels of the image, x before y.

    Attributes:
        inside: points on the object.
        outside: points on the background.
        box: x1, y1, x2, y2.
        scribbles: strokes; also their fields as dicts, or lists of points on the object.
        polygon: vertices of a rough outline.
        label: name of the resulting segment.

    Raises:
        PromptError: if the label is not a string, or a scribble is something else.
    """

    inside: Sequence[Point] = ()
    outside: Sequence[Point] = ()
    box: tuple[float, float, float, float] | None = None
    scribbles: Sequence[Scribble] = ()
    polygon: Sequence[Point] = ()
    label: str = "object"

    def __post_init__(self) -> None:
        if not isinstance(self.label, str):
            raise PromptError(
                "the label of a prompt is the name of its segment, a string, not "
                f"{describe(self.label)}"
            )
        for name in ("inside", "outside", "scribbles", "polygon"):
            value = getattr(self, name)
            if value is None:
                object.__setattr__(self, name, ())
            elif isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
                raise PromptError(f"{name} of a prompt is a list, not {describe(value)}")
            elif not isinstance(value, np.ndarray):
                object.__setattr__(self, name, tuple(value))
        object.__setattr__(self, "scribbles", tuple(map(Scribble.parse, self.scribbles)))

    @classmethod
    def parse(cls, prompt: Prompt | Mapping[str, Any]) -> Prompt:
        """Return a prompt, built from its fields if it is a mapping.

        Raises:
            PromptError: for an unknown field, or what is neither.
        """
        if isinstance(prompt, Prompt):
            return prompt
        if not isinstance(prompt, Mapping):
            raise PromptError(
                f'a prompt is a dict such as {{"inside": [(x, y)]}}, not {describe(prompt)}'
            )
        _require_fields(cls, prompt, "prompt")
        return cls(**prompt)


@dataclass(frozen=True)
class SamPrompt:
    """Prompt in the form that SAM takes.

    Attributes:
        points: [P, 2] x and y.
        labels: [P] 1 = on the object, 0 = on the background.
        box: [4] x1, y1, x2, y2, or None.
        mask: [H, W] bool, or None.
    """

    points: np.ndarray
    labels: np.ndarray
    box: np.ndarray | None = None
    mask: np.ndarray | None = None

    @property
    def ambiguous(self) -> bool:
        """Whether it is a single click, which may mean an object or a part of it."""
        return len(self.points) == 1 and self.box is None and self.mask is None

    def merge(self, later: SamPrompt) -> SamPrompt:
        """Combine the prompt with a later one of the same object.

        Points add up; a later box replaces the earlier one; the mask is the later one's only.

        Raises:
            PromptError: if a pixel is on the object in one and on the background in the other.
        """
        labels = dict(zip(map(tuple, np.floor(self.points)), self.labels, strict=True))
        for point, label in zip(np.floor(later.points), later.labels, strict=True):
            if labels.get(tuple(point), label) != label:
                x, y = point
                side = "outside" if label else "inside"
                raise PromptError(f"the pixel ({x:g}, {y:g}) is {side} in an earlier prompt")
        return SamPrompt(
            np.concatenate([self.points, later.points]),
            np.concatenate([self.labels, later.labels]),
            self.box if later.box is None else later.box,
            later.mask,
        )


def to_sam_prompt(prompt: Prompt, size: tuple[int, int], refinement: bool = False) -> SamPrompt:
    """Convert a prompt to SAM's points, box and mask.

    A scribble becomes points (see `scribble_points`); a polygon becomes its box, its area as mask,
    and a click at the centre of its largest inscribed circle.

    Args:
        prompt: with at least one of its fields.
        size: (height, width) of the image.
        refinement: the prompt adds to earlier ones of the same object, so that it may have
            background points only.

    Raises:
        PromptError: for a prompt without content or without anything on the object, a point
            outside the image, a pixel both on the object and on the background, a box or a polygon
            without an area, or both a box and a polygon.
    """
    points_and_labels = list(_labelled_points(prompt, size))
    box, mask = prompt.box, None
    if len(prompt.polygon):
        if box is not None:
            raise PromptError("a prompt has either a box or a polygon, which defines a box as well")
        mask = polygon_mask(prompt.polygon, size)
        points_and_labels.append((*region_centre(mask), 1))
        x1, y1, x2, y2 = masks_to_boxes(torch.from_numpy(mask)[None])[0].tolist()
        box = (x1, y1, x2, y2)
    points = np.array([row[:2] for row in points_and_labels], float).reshape(-1, 2)
    labels = np.array([row[2] for row in points_and_labels], int)
    if box is None and not len(points):
        raise PromptError("a prompt needs a click, a box, a scribble or a polygon")
    if box is None and not labels.any() and not refinement:
        raise PromptError("a prompt of outside points only does not locate the object")
    _check_contradictions(points, labels)
    return SamPrompt(points, labels, None if box is None else _checked_box(box, size), mask)


def polygon_mask(polygon: Sequence[Point], size: tuple[int, int]) -> np.ndarray:
    """Draw the area of a polygon, clipped to the image.

    Args:
        polygon: three or more vertices.
        size: (height, width) of the image.

    Returns:
        [H, W] bool; pixels on the outline are inside.

    Raises:
        PromptError: for fewer than three vertices, or vertices on a line; for a polygon outside the
            image.
    """
    vertices = _numbers(polygon, "the vertices of a polygon")
    if vertices.ndim != 2 or vertices.shape[1] != 2 or len(vertices) < 3:
        raise PromptError(
            f"a polygon needs at least three vertices (x, y), and is {describe(polygon)}"
        )
    if not np.isfinite(vertices).all():
        raise PromptError(
            f"the vertices of a polygon must be finite numbers, and are {describe(polygon)}"
        )
    spread = np.linalg.svd(vertices - vertices.mean(0), compute_uv=False)
    if spread[1] < MIN_POLYGON_SPREAD:
        raise PromptError("the vertices of a polygon are on a line; its area is that of the object")
    canvas = np.zeros(size, np.uint8)
    limit = 4 * max(size)
    cv2.fillPoly(canvas, [np.floor(vertices.clip(-limit, limit)).astype(np.int32)], 1)
    if not canvas.any():
        raise PromptError(f"the polygon is outside the image, {_size_text(size)}")
    return canvas.astype(bool)


def scribble_points(scribble: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Select points along a scribble that are far from each other.

    Farthest-point sampling from the midpoint, over samples at equal arc lengths of at most two
    pixels, so that a scribble that crosses itself does not yield coinciding points.

    Args:
        scribble: [n, 2] x and y of its vertices.
        size: (height, width) of the image.

    Returns:
        [k, 2]; k grows with the length from 3 to 10, and is 1 for a scribble of length 0.
    """
    samples, length = resample_by_arc_length(scribble)
    if length == 0:
        return scribble[:1].astype(float)
    count = int(
        np.clip(
            np.ceil(length / (SCRIBBLE_SPACING * max(size))),
            MIN_SCRIBBLE_POINTS,
            MAX_SCRIBBLE_POINTS,
        )
    )
    selected: np.ndarray = samples[farthest_point_sampling(samples, count)]
    return selected


def resample_by_arc_length(polyline: np.ndarray) -> tuple[np.ndarray, float]:
    """Sample a polyline at equal arc lengths.

    Args:
        polyline: [n, 2] vertices.

    Returns:
        Samples [m, 2], m odd and at least 21, and the polyline's length.
    """
    polyline = np.asarray(polyline, float)
    steps = np.hypot(*np.diff(polyline, axis=0).T)
    arc_lengths = np.concatenate([[0.0], np.cumsum(steps)])
    length = float(arc_lengths[-1])
    count = 2 * max(MAX_SCRIBBLE_POINTS, int(np.ceil(length / 2))) + 1
    positions = np.linspace(0, length, count)
    samples = [np.interp(positions, arc_lengths, polyline[:, axis]) for axis in (0, 1)]
    return np.stack(samples, axis=1), length


def farthest_point_sampling(samples: np.ndarray, count: int) -> np.ndarray:
    """Select `count` indices: the middle sample, then always the one farthest from those selected.

    Args:
        samples: [m, 2].
        count: number of indices.
    """
    selected = [len(samples) // 2]
    distances = np.full(len(samples), np.inf)
    while len(selected) < count:
        distances = np.minimum(distances, np.hypot(*(samples - samples[selected[-1]]).T))
        selected.append(int(distances.argmax()))
    return np.array(selected)


def _labelled_points(prompt: Prompt, size: tuple[int, int]) -> Iterator[tuple[float, float, int]]:
    """Yield x, y and label of every click and every scribble point."""
    inputs = [(prompt.inside, 1, "click"), (prompt.outside, 0, "click")]
    inputs += [(scribble.points, int(scribble.inside), "scribble") for scribble in prompt.scribbles]
    for coordinates, label, kind in inputs:
        points = _numbers(coordinates, f"the points of a {kind}")
        if not points.size:
            if kind == "scribble":
                raise PromptError("a scribble needs at least one point")
            continue
        if points.ndim != 2 or points.shape[1] != 2:
            raise PromptError(
                f"the points of a {kind} must be pairs (x, y), and are {describe(coordinates)}"
            )
        _check_inside_image(points, size, kind)
        for x, y in scribble_points(points, size) if kind == "scribble" else points:
            yield float(x), float(y), label


def _check_inside_image(points: np.ndarray, size: tuple[int, int], kind: str) -> None:
    height, width = size
    valid = (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)
    if not valid.all():
        x, y = points[~valid][0]
        raise PromptError(f"the {kind} at ({x:g}, {y:g}) is outside the image, {_size_text(size)}")


def _check_contradictions(points: np.ndarray, labels: np.ndarray) -> None:
    labels_by_pixel: dict[tuple[int, int], int] = {}
    for (x, y), label in zip(np.floor(points).astype(int).tolist(), labels.tolist(), strict=True):
        if labels_by_pixel.setdefault((x, y), label) != label:
            raise PromptError(f"the pixel ({x}, {y}) is both inside and outside")


def _checked_box(box: Sequence[float], size: tuple[int, int]) -> np.ndarray:
    corners = _numbers(box, "the numbers of a box")
    if corners.shape != (4,):
        raise PromptError(f"a box must be four numbers x1, y1, x2, y2, and is {describe(box)}")
    if not np.isfinite(corners).all():
        raise PromptError(f"the numbers of a box must be finite, and are {describe(box)}")
    x1, y1, x2, y2 = corners
    name = f"the box ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
    if x2 <= x1 or y2 <= y1:
        raise PromptError(f"{name} has no area: it is x1, y1, x2, y2 with x1 < x2 and y1 < y2")
    if x2 <= 0 or y2 <= 0 or x1 >= size[1] or y1 >= size[0]:
        raise PromptError(f"{name} is outside the image, {_size_text(size)}")
    return corners


def _require_fields(cls: type, fields: Mapping[str, Any], what: str) -> None:
    known = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
    for name in fields:
        if name not in known:
            raise PromptError(f'a {what} has no "{name}"; it has {", ".join(known)}')


def _numbers(values: Any, what: str) -> np.ndarray:
    """Convert coordinates to an array.

    Raises:
        PromptError: if they are no numbers, or lists of different lengths.
    """
    try:
        if isinstance(values, torch.Tensor):
            values = values.detach().cpu()
        array = np.asarray(values)
        if array.dtype.kind not in "iuf" and array.size:
            raise TypeError
        return array.astype(float)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PromptError(f"{what} must be numbers, and are {describe(values)}") from error


def _size_text(size: tuple[int, int]) -> str:
    return f"which is {size[1]} pixels wide and {size[0]} high"
