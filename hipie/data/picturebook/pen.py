"""Drawing of a thing, part by part, into an antialiased sprite with part labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .classes import COLOURS

Colour = tuple[int, int, int]
Point = tuple[float, float]
COAT = "coat"
"""Fill with the thing's colour and pattern."""
_SUPER = 2
_SHIFT = 4


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """Interpolate two colours: (1 - share) * first + share * second."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def darker(colour: Colour, share: float = 0.4) -> Colour:
    """Mix a colour with near-black; `share` is the weight of the latter."""
    return mix(colour, (24, 20, 34), share)


def lighter(colour: Colour, share: float = 0.4) -> Colour:
    """Mix a colour with near-white; `share` is the weight of the latter."""
    return mix(colour, (255, 252, 244), share)


@dataclass(frozen=True)
class Sprite:
    """Rendered thing: `alpha` [h, w] in 0..1, `colours` [h, w, 3] premultiplied by it, `labels`.

    `labels` (uint8 [h, w]) is 0 outside, else 1 + an index into `parts`, which holds (part name,
    index of the parent part or -1). `foot` is the ground contact (x, y) in sprite pixels.
    """

    colours: NDArray[Any]
    alpha: NDArray[Any]
    labels: NDArray[Any]
    parts: tuple[tuple[str, int], ...]
    foot: tuple[int, int]


class Pen:
    """Canvas in units of the thing's height: x in 0..aspect, y from 0 (top) to 1 (foot).

    Args:
        height: pixels of the thing's height on the page.
        aspect: width over height of the thing.
        colour: key of `COLOURS`, the colour of `COAT`.
        pattern: one of `PATTERNS`, drawn on `COAT`.
        rng: source of the pattern's phase and angle.
        flip: flip horizontally.
        tilt: clockwise rotation about the foot in radians.
        line: outline width in page pixels.
    """

    def __init__(
        self,
        height: float,
        aspect: float,
        colour: str,
        pattern: str,
        rng: np.random.Generator,
        flip: bool = False,
        tilt: float = 0.0,
        line: float = 1.3,
    ) -> None:
        self.aspect = aspect
        self.coat = _jitter(COLOURS[colour], rng)
        self._line = max(1, round(line * _SUPER))
        margin = 0.12 * height + 3
        self._size = (
            int(np.ceil(height * aspect + 2 * margin)) * _SUPER,
            int(np.ceil(height + 2 * margin)) * _SUPER,
        )
        scale = height * _SUPER
        cosine, sine = np.cos(tilt) * scale, np.sin(tilt) * scale
        mirror = -1.0 if flip else 1.0
        self._matrix = np.array([[mirror * cosine, -sine], [mirror * sine, cosine]])
        foot = np.array([self._size[0] / 2, (margin + height) * _SUPER])
        self._offset = foot - self._matrix @ np.array([aspect / 2, 1.0])
        self._scale = scale
        self._foot = (int(foot[0] / _SUPER), int(foot[1] / _SUPER))
        width, canvas_height = self._size
        self._canvas = np.zeros((canvas_height, width, 3), np.uint8)
        self._labels = np.zeros((canvas_height, width), np.uint8)
        self._coat_image = self._paint_coat(pattern, height, rng)
        self._parts: list[tuple[str, int]] = []
        self._label = 0

    def _paint_coat(
        self, pattern: str, height: float, rng: np.random.Generator
    ) -> NDArray[Any] | None:
        phase, angle = rng.uniform(0, 1, 2)
        if pattern == "plain":
            return None
        width, canvas_height = self._size
        luminance = 0.3 * self.coat[0] + 0.59 * self.coat[1] + 0.11 * self.coat[2]
        second = darker(self.coat, 0.5) if luminance > 135 else lighter(self.coat, 0.72)
        period = max(0.16 * height, 7.0) * _SUPER
        turn = (angle - 0.5) * 1.2
        y, x = np.mgrid[0:canvas_height, 0:width].astype(np.float32)
        along = (x * np.cos(turn) + y * np.sin(turn)) / period + phase
        across = (-x * np.sin(turn) + y * np.cos(turn)) / period + phase
        if pattern == "striped":
            marked = (along % 1.0) < 0.42
        else:
            row = np.floor(across)
            dx = (along + 0.5 * (row % 2)) % 1.0 - 0.5
            marked = dx**2 + (across - row - 0.5) ** 2 < 0.3**2
        return np.where(
            marked[..., None], np.array(second, np.uint8), np.array(self.coat, np.uint8)
        )

    def part(self, name: str, parent: int = -1) -> int:
        """Start a part, to which all following shapes belong; return its index."""
        self._parts.append((name, parent))
        self._label = len(self._parts)
        return self._label - 1

    def resume(self, index: int) -> None:
        """Continue the part with this index: following shapes belong to it."""
        self._label = index + 1

    def _to_fixed_point(self, points: NDArray[Any]) -> NDArray[Any]:
        placed = points @ self._matrix.T + self._offset
        return np.round(placed * (1 << _SHIFT)).astype(np.int32)

    def polygon(
        self, points: Sequence[Point] | NDArray[Any], fill: Colour | str, outline: bool = True
    ) -> None:
        """Fill a closed polygon; outline it with a darker shade of the fill."""
        corners = [self._to_fixed_point(np.asarray(points, dtype=np.float64))]
        label = self._label
        colour = self.coat if isinstance(fill, str) else fill  # the only text is COAT
        if fill == COAT and self._coat_image is not None:
            mask = np.zeros(self._labels.shape, np.uint8)
            cv2.fillPoly(mask, corners, 255, cv2.LINE_8, _SHIFT)
            cv2.copyTo(self._coat_image, mask, self._canvas)
        else:
            cv2.fillPoly(self._canvas, corners, colour, cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self._labels, corners, label, cv2.LINE_8, _SHIFT)
        if outline:
            shade = darker(colour, 0.55)
            self._stroke(corners, shade, self._line, True, label)

    def _stroke(
        self, lines: list[NDArray[Any]], colour: Colour, width: int, closed: bool, label: int
    ) -> None:
        cv2.polylines(self._canvas, lines, closed, colour, width, cv2.LINE_AA, _SHIFT)
        cv2.polylines(self._labels, lines, closed, label, width, cv2.LINE_8, _SHIFT)

    def line(self, points: Sequence[Point], colour: Colour, width: float | None = None) -> None:
        """Stroke an open line; `width` in units of height, else the outline's."""
        pixels = self._line if width is None else max(self._line, round(width * self._scale))
        placed = [self._to_fixed_point(np.asarray(points, dtype=np.float64))]
        self._stroke(placed, colour, pixels, False, self._label)

    def blob(self, points: Sequence[Point], fill: Colour | str, outline: bool = True) -> None:
        """Fill the smooth closed curve through these points (Catmull-Rom)."""
        self.polygon(smooth(np.asarray(points, dtype=np.float64), True), fill, outline)

    def ellipse(
        self,
        centre: Point,
        radii: Point,
        fill: Colour | str,
        turn: float = 0.0,
        outline: bool = True,
    ) -> None:
        """Fill an ellipse; `turn` in radians, clockwise."""
        self.polygon(ellipse_points(centre, radii, turn), fill, outline)

    def box(
        self, x0: float, y0: float, x1: float, y1: float, fill: Colour | str, round_: float = 0.0
    ) -> None:
        """Fill a rectangle with rounded corners."""
        self.polygon(box_points(x0, y0, x1, y1, round_), fill)

    def limb(self, start: Point, end: Point, first: float, last: float, fill: Colour | str) -> None:
        """Fill a tapered capsule from start to end with these two radii."""
        a, b = np.asarray(start), np.asarray(end)
        turn = np.arctan2(b[1] - a[1], b[0] - a[0])
        arc = np.linspace(np.pi / 2, 3 * np.pi / 2, 9) + turn
        head = a + first * np.stack([np.cos(arc), np.sin(arc)], 1)
        tail = b - last * np.stack([np.cos(arc), np.sin(arc)], 1)
        self.polygon(np.concatenate([head, tail]), fill)

    def ribbon(
        self, points: Sequence[Point], first: float, last: float, fill: Colour | str
    ) -> None:
        """Fill a smooth tapered band along these points, with half widths first .. last."""
        path = smooth(np.asarray(points, dtype=np.float64), False)
        step = np.gradient(path, axis=0)
        normal = np.stack([-step[:, 1], step[:, 0]], 1)
        normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        half = np.linspace(first, last, len(path))[:, None]
        self.polygon(np.concatenate([path + normal * half, (path - normal * half)[::-1]]), fill)

    def to_sprite(self) -> Sprite:
        """Downsample to page pixels; pixels with alpha below 0.5 get label 0."""
        width, canvas_height = self._size[0] // _SUPER, self._size[1] // _SUPER
        inside = (self._labels > 0).astype(np.float32)
        alpha = cv2.resize(inside, (width, canvas_height), interpolation=cv2.INTER_AREA)
        drawn = self._canvas.astype(np.float32) * inside[..., None]
        colours = cv2.resize(drawn, (width, canvas_height), interpolation=cv2.INTER_AREA)
        labels = np.zeros((canvas_height, width), np.uint8)
        for dy, dx in ((0, 0), (1, 1), (0, 1), (1, 0)):
            sampled = self._labels[dy::_SUPER, dx::_SUPER]
            labels = np.where(labels == 0, sampled, labels)
        labels[alpha < 0.5] = 0
        return Sprite(colours, alpha, labels, tuple(self._parts), self._foot)


def _jitter(colour: Colour, rng: np.random.Generator) -> Colour:
    shade = rng.uniform(-10, 10) + rng.uniform(-7, 7, 3)
    red, green, blue = (int(v) for v in np.clip(np.asarray(colour) + shade, 0, 255))
    return red, green, blue


def smooth(points: NDArray[Any], closed: bool, steps: int = 6) -> NDArray[Any]:
    """Sample the Catmull-Rom spline through `points` [N, 2]."""
    if closed:
        before, after, later = np.roll(points, 1, 0), np.roll(points, -1, 0), np.roll(points, -2, 0)
    else:
        padded = np.concatenate([points[:1], points, points[-1:]])
        before, points, after, later = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (p[:, None] for p in (before, points, after, later))
    curve = 0.5 * (
        2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3
    )
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, after[-1:]])


def ellipse_points(centre: Point, radii: Point, turn: float = 0.0, count: int = 28) -> NDArray[Any]:
    """Return points [count, 2] on an ellipse."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    x, y = radii[0] * np.cos(angle), radii[1] * np.sin(angle)
    cosine, sine = np.cos(turn), np.sin(turn)
    return np.stack([centre[0] + x * cosine - y * sine, centre[1] + x * sine + y * cosine], 1)


def box_points(x0: float, y0: float, x1: float, y1: float, round_: float) -> NDArray[Any]:
    """Return the corners of a rectangle, or quarter circles in their place if `round_` > 0."""
    if round_ <= 0:
        return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
    radius = min(round_, (x1 - x0) / 2, (y1 - y0) / 2)
    corners = []
    for x, y, start in (
        (x1 - radius, y0 + radius, -np.pi / 2),
        (x1 - radius, y1 - radius, 0.0),
        (x0 + radius, y1 - radius, np.pi / 2),
        (x0 + radius, y0 + radius, np.pi),
    ):
        angle = start + np.linspace(0, np.pi / 2, 5)
        corners.append(np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], 1))
    return np.concatenate(corners)
