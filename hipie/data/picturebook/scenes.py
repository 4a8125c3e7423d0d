"""Scenes: sampled layouts of stuff, and their rendering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .painting import INDEX, TINTS, paint
from .pen import smooth


@dataclass(frozen=True)
class Scene:
    """Background of a page.

    `stuff` int8 [H,W] indexes `STUFF`; `canvas` float32 [H,W,3] RGB 0..255; `tint` multiplies the
    finished page; `horizon` is the row where the ground begins.
    """

    name: str
    stuff: NDArray[Any]
    canvas: NDArray[Any]
    tint: NDArray[Any]
    horizon: int


class _StuffMap:
    """Label map of stuff during the construction of a layout."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng, self.width, self.height = rng, width, height
        self.labels = np.zeros((height, width), np.int8)
        self.horizon = 0

    def fill(self, name: str) -> None:
        self.labels[:] = INDEX[name]

    def below(
        self, name: str, level: float, amplitude: float = 0.0, frequency: float = 1.0
    ) -> None:
        """Fill the area below a wavy line at `level` (fraction of the height)."""
        x = np.arange(self.width)
        phase = self.rng.uniform(0, 2 * np.pi, 3)
        line = np.zeros(self.width)
        for number in range(3):
            cycles = frequency * (number + 1) * self.width / self.height
            line += np.sin(x / self.width * 2 * np.pi * cycles * 0.7 + phase[number]) / (number + 1)
        rows = np.round((level + amplitude * line) * self.height)
        self.labels[np.arange(self.height)[:, None] >= rows[None]] = INDEX[name]

    def peaks(self, level: float, low: float, high: float) -> None:
        """Draw a chain of mountains with its base at `level` (fraction of the height)."""
        count = int(self.rng.integers(3, 6))
        x = (np.arange(count) + self.rng.uniform(0.2, 0.8, count)) / count * self.width
        floor = round(level * self.height) + 2
        corners: list[tuple[float, float]] = [(-0.1 * self.width, floor)]
        for number, peak_x in enumerate(x):
            peak_height = self.rng.uniform(low, high)
            corners.append((peak_x, floor - peak_height * self.height))
            if number + 1 < count:
                valley = self.rng.uniform(0.25, 0.6) * low
                corners.append(((peak_x + x[number + 1]) / 2, floor - valley * self.height))
        corners.append((1.1 * self.width, floor))
        self.polygon("mountain", np.array(corners), allowed_stuff=("sky",))

    def polygon(
        self, name: str, points: NDArray[Any], allowed_stuff: tuple[str, ...] = ()
    ) -> NDArray[Any]:
        mask = np.zeros(self.labels.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
        selected = mask > 0
        if allowed_stuff:
            selected &= np.isin(self.labels, [INDEX[kind] for kind in allowed_stuff])
        self.labels[selected] = INDEX[name]
        return selected

    def road(self, ground: str) -> NDArray[Any]:
        """Draw a road across the ground or to the horizon; return the mask of its white lines."""
        marks = np.zeros(self.labels.shape, np.uint8)
        top = self.horizon / self.height
        ground_height = 1 - top
        allowed_stuff = (ground,)
        if self.rng.random() < 0.65:
            middle = top + ground_height * self.rng.uniform(0.42, 0.66)
            half = self.rng.uniform(0.075, 0.11)
            slope = self.rng.uniform(-0.05, 0.05)
            left, right = (middle - slope) * self.height, (middle + slope) * self.height
            half_width = half * self.height
            road = np.array(
                [
                    (0, left - half_width),
                    (self.width, right - half_width),
                    (self.width, right + half_width),
                    (0, left + half_width),
                ]
            )
            dash_ends = np.linspace(0, 1, int(self.width / self.height * 7) * 2 + 1)
            for start_fraction, end_fraction in zip(
                dash_ends[0:-1:2], dash_ends[1::2], strict=True
            ):
                ends = [
                    (start_fraction * self.width, left + (right - left) * start_fraction),
                    (end_fraction * self.width, left + (right - left) * end_fraction),
                ]
                _line(marks, ends, max(2, half_width * 0.13))
        else:
            vanishing_x = self.rng.uniform(0.25, 0.75) * self.width
            near_x = vanishing_x + self.rng.uniform(-0.25, 0.25) * self.width
            narrow, broad = 0.05 * self.width, self.rng.uniform(0.2, 0.28) * self.width
            start, end = self.horizon - 0.02 * self.height, self.height
            road = np.array(
                [
                    (vanishing_x - narrow, start),
                    (vanishing_x + narrow, start),
                    (near_x + broad, end),
                    (near_x - broad, end),
                ]
            )
            dash_ends = (np.linspace(0.1, 1, 12)) ** 1.5
            for start_fraction, end_fraction in zip(dash_ends[0::2], dash_ends[1::2], strict=True):
                ends = [
                    (vanishing_x + (near_x - vanishing_x) * t, start + (end - start) * t)
                    for t in (start_fraction, end_fraction)
                ]
                _line(marks, ends, 2 + 0.016 * self.width * start_fraction)
        return (marks > 0) & self.polygon("road", road, allowed_stuff)

    def blob(self, name: str, allowed_stuff: tuple[str, ...], size: float) -> None:
        """Draw a blob (a pond, a lawn) near the middle of the ground."""
        ground_height = self.height - self.horizon
        centre = np.array(
            [
                self.rng.uniform(0.3, 0.7) * self.width,
                self.horizon + self.rng.uniform(0.45, 0.65) * ground_height,
            ]
        )
        angle = np.linspace(0, 2 * np.pi, 9)[:-1]
        reach = self.rng.uniform(0.85, 1.15, 8)[:, None]
        radii = (size * self.width, 0.32 * ground_height)
        around = np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], 1)
        self.polygon(name, smooth(centre + reach * around, True, 8), allowed_stuff)

    def rug(self) -> None:
        ground_height = self.height - self.horizon
        x, half = (
            self.rng.uniform(0.35, 0.65) * self.width,
            self.rng.uniform(0.26, 0.38) * self.width,
        )
        top = self.horizon + self.rng.uniform(0.18, 0.3) * ground_height
        bottom = self.horizon + self.rng.uniform(0.78, 0.92) * ground_height
        if self.rng.random() < 0.5:
            points = np.array(
                [
                    (x - half * 0.8, top),
                    (x + half * 0.8, top),
                    (x + half, bottom),
                    (x - half, bottom),
                ]
            )
        else:
            angle = np.linspace(0, 2 * np.pi, 40)
            points = np.stack(
                [x + half * np.cos(angle), (top + bottom) / 2 + (bottom - top) / 2 * np.sin(angle)],
                1,
            )
        self.polygon("carpet", points)


def _line(mask: NDArray[Any], ends: list[Any], width: float) -> None:
    a, b = (tuple(int(round(v)) for v in end) for end in ends)
    cv2.line(mask, a, b, 1, max(1, round(width)))


Marks = NDArray[Any] | None


def _open_air(
    stuff_map: _StuffMap,
    ground: str,
    mountains: float,
    level: tuple[float, float],
    amplitude: float,
) -> None:
    stuff_map.fill("sky")
    line = stuff_map.rng.uniform(*level)
    stuff_map.horizon = round(line * stuff_map.height)
    if stuff_map.rng.random() < mountains:
        stuff_map.peaks(line, 0.1, 0.24)
    stuff_map.below(ground, line, amplitude)


def _meadow(stuff_map: _StuffMap) -> Marks:
    _open_air(stuff_map, "grass", 0.4, (0.3, 0.5), 0.012)
    choice = stuff_map.rng.random()
    if choice < 0.5:
        return stuff_map.road("grass")
    if choice < 0.75:
        stuff_map.blob("water", ("grass",), stuff_map.rng.uniform(0.2, 0.34))
    return None


def _seaside(stuff_map: _StuffMap) -> Marks:
    _open_air(stuff_map, "water", 0.25, (0.26, 0.4), 0.0)
    shore = stuff_map.rng.uniform(0.6, 0.74)
    stuff_map.below("sand", shore, 0.018)
    return None


def _town(stuff_map: _StuffMap) -> Marks:
    _open_air(stuff_map, "pavement", 0.15, (0.34, 0.46), 0.0)
    if stuff_map.rng.random() < 0.35:
        stuff_map.blob("grass", ("pavement",), stuff_map.rng.uniform(0.25, 0.4))
        return None
    return stuff_map.road("pavement")


def _winter(stuff_map: _StuffMap) -> Marks:
    _open_air(stuff_map, "snow", 0.6, (0.3, 0.5), 0.014)
    choice = stuff_map.rng.random()
    if choice < 0.35:
        return stuff_map.road("snow")
    if choice < 0.65:
        stuff_map.blob("water", ("snow",), stuff_map.rng.uniform(0.2, 0.34))
    return None


def _lake(stuff_map: _StuffMap) -> Marks:
    _open_air(stuff_map, "water", 0.8, (0.3, 0.42), 0.0)
    stuff_map.below("grass", stuff_map.rng.uniform(0.62, 0.76), 0.02)
    return None


def _desert(stuff_map: _StuffMap) -> Marks:
    _open_air(stuff_map, "sand", 0.6, (0.3, 0.48), 0.016)
    return stuff_map.road("sand") if stuff_map.rng.random() < 0.5 else None


def _room(stuff_map: _StuffMap) -> Marks:
    stuff_map.fill("wall")
    line = stuff_map.rng.uniform(0.42, 0.58)
    stuff_map.horizon = round(line * stuff_map.height)
    stuff_map.below("floor", line)
    if stuff_map.rng.random() < 0.65:
        stuff_map.rug()
    return None


def _under_water(stuff_map: _StuffMap) -> Marks:
    stuff_map.fill("water")
    line = stuff_map.rng.uniform(0.72, 0.84)
    stuff_map.horizon = round(0.3 * stuff_map.height)
    stuff_map.below("sand", line, 0.02)
    return None


LAYOUTS: dict[str, tuple[Callable[[_StuffMap], Marks], float, tuple[str, ...]]] = {
    "meadow": (_meadow, 0.2, ("sky", "grass")),
    "seaside": (_seaside, 0.15, ("sky", "water", "sand")),
    "town": (_town, 0.16, ("sky", "pavement")),
    "winter": (_winter, 0.14, ("sky", "snow")),
    "lake": (_lake, 0.12, ("sky", "water", "grass")),
    "desert": (_desert, 0.07, ("sky", "sand")),
    "room": (_room, 0.13, ("wall", "floor")),
    "under water": (_under_water, 0.03, ("water", "sand")),
}
"""Name -> (layout function, sampling weight, stuff that is always present)."""


def make_scene(rng: np.random.Generator, name: str, width: int, height: int) -> Scene:
    """Build and render a scene of `LAYOUTS`."""
    stuff_map = _StuffMap(rng, width, height)
    marks = LAYOUTS[name][0](stuff_map)
    canvas = paint(rng, stuff_map.labels, marks)
    tint = np.array(TINTS[rng.integers(len(TINTS))], np.float32)
    return Scene(name, stuff_map.labels, canvas, tint, stuff_map.horizon)
