"""Scenes: which stuff lies where on a page, and its painting."""

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
    """A page before things stand on it.

    `stuff` int8 [H,W] indexes `STUFF`; `canvas` float32 [H,W,3] RGB 0..255; `tint` multiplies the
    finished page; `horizon` is the row where the ground begins.
    """

    name: str
    stuff: NDArray[Any]
    canvas: NDArray[Any]
    tint: NDArray[Any]
    horizon: int


class _Sheet:
    """The map of stuff under construction."""

    def __init__(self, rng: np.random.Generator, width: int, height: int) -> None:
        self.rng, self.width, self.height = rng, width, height
        self.map = np.zeros((height, width), np.int8)
        self.horizon = 0

    def fill(self, name: str) -> None:
        self.map[:] = INDEX[name]

    def below(self, name: str, level: float, swing: float = 0.0, waves: float = 1.0) -> None:
        """Cover everything below a line at `level` (fraction of the height) that swings."""
        x = np.arange(self.width)
        phase = self.rng.uniform(0, 2 * np.pi, 3)
        line = np.zeros(self.width)
        for number in range(3):
            turns = waves * (number + 1) * self.width / self.height
            line += np.sin(x / self.width * 2 * np.pi * turns * 0.7 + phase[number]) / (number + 1)
        rows = np.round((level + swing * line) * self.height)
        self.map[np.arange(self.height)[:, None] >= rows[None]] = INDEX[name]

    def peaks(self, level: float, low: float, high: float) -> None:
        """Draw a chain of mountains that stands on `level`."""
        count = int(self.rng.integers(3, 6))
        x = (np.arange(count) + self.rng.uniform(0.2, 0.8, count)) / count * self.width
        floor = round(level * self.height) + 2
        corners: list[tuple[float, float]] = [(-0.1 * self.width, floor)]
        for number, place in enumerate(x):
            tall = self.rng.uniform(low, high)
            corners.append((place, floor - tall * self.height))
            if number + 1 < count:
                valley = self.rng.uniform(0.25, 0.6) * low
                corners.append(((place + x[number + 1]) / 2, floor - valley * self.height))
        corners.append((1.1 * self.width, floor))
        self.polygon("mountain", np.array(corners), only=("sky",))

    def polygon(self, name: str, points: NDArray[Any], only: tuple[str, ...] = ()) -> NDArray[Any]:
        mask = np.zeros(self.map.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(points).astype(np.int32)], 1)
        chosen = mask > 0
        if only:
            chosen &= np.isin(self.map, [INDEX[kind] for kind in only])
        self.map[chosen] = INDEX[name]
        return chosen

    def road(self, ground: str) -> NDArray[Any]:
        """Lay a road across the ground or towards the horizon; returns where its marks are."""
        marks = np.zeros(self.map.shape, np.uint8)
        top = self.horizon / self.height
        room = 1 - top
        only = (ground,)
        if self.rng.random() < 0.65:
            middle = top + room * self.rng.uniform(0.42, 0.66)
            half = self.rng.uniform(0.075, 0.11)
            slope = self.rng.uniform(-0.05, 0.05)
            left, right = (middle - slope) * self.height, (middle + slope) * self.height
            thick = half * self.height
            road = np.array(
                [
                    (0, left - thick),
                    (self.width, right - thick),
                    (self.width, right + thick),
                    (0, left + thick),
                ]
            )
            cuts = np.linspace(0, 1, int(self.width / self.height * 7) * 2 + 1)
            for a, b in zip(cuts[0:-1:2], cuts[1::2], strict=True):
                ends = [
                    (a * self.width, left + (right - left) * a),
                    (b * self.width, left + (right - left) * b),
                ]
                _line(marks, ends, max(2, thick * 0.13))
        else:
            aim = self.rng.uniform(0.25, 0.75) * self.width
            near = aim + self.rng.uniform(-0.25, 0.25) * self.width
            narrow, broad = 0.05 * self.width, self.rng.uniform(0.2, 0.28) * self.width
            start, end = self.horizon - 0.02 * self.height, self.height
            road = np.array(
                [
                    (aim - narrow, start),
                    (aim + narrow, start),
                    (near + broad, end),
                    (near - broad, end),
                ]
            )
            cuts = (np.linspace(0.1, 1, 12)) ** 1.5
            for a, b in zip(cuts[0::2], cuts[1::2], strict=True):
                ends = [(aim + (near - aim) * t, start + (end - start) * t) for t in (a, b)]
                _line(marks, ends, 2 + 0.016 * self.width * a)
        return (marks > 0) & self.polygon("road", road, only)

    def blob(self, name: str, only: tuple[str, ...], size: float) -> None:
        """Lay a lying blob (a pond, a rug) somewhere in the middle of the ground."""
        room = self.height - self.horizon
        centre = np.array(
            [
                self.rng.uniform(0.3, 0.7) * self.width,
                self.horizon + self.rng.uniform(0.45, 0.65) * room,
            ]
        )
        angle = np.linspace(0, 2 * np.pi, 9)[:-1]
        reach = self.rng.uniform(0.85, 1.15, 8)[:, None]
        radii = (size * self.width, 0.32 * room)
        around = np.stack([np.cos(angle) * radii[0], np.sin(angle) * radii[1]], 1)
        self.polygon(name, smooth(centre + reach * around, True, 8), only)

    def rug(self) -> None:
        room = self.height - self.horizon
        x, half = (
            self.rng.uniform(0.35, 0.65) * self.width,
            self.rng.uniform(0.26, 0.38) * self.width,
        )
        top = self.horizon + self.rng.uniform(0.18, 0.3) * room
        bottom = self.horizon + self.rng.uniform(0.78, 0.92) * room
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
    sheet: _Sheet, ground: str, mountains: float, level: tuple[float, float], swing: float
) -> None:
    sheet.fill("sky")
    line = sheet.rng.uniform(*level)
    sheet.horizon = round(line * sheet.height)
    if sheet.rng.random() < mountains:
        sheet.peaks(line, 0.1, 0.24)
    sheet.below(ground, line, swing)


def _meadow(sheet: _Sheet) -> Marks:
    _open_air(sheet, "grass", 0.4, (0.3, 0.5), 0.012)
    choice = sheet.rng.random()
    if choice < 0.5:
        return sheet.road("grass")
    if choice < 0.75:
        sheet.blob("water", ("grass",), sheet.rng.uniform(0.2, 0.34))
    return None


def _seaside(sheet: _Sheet) -> Marks:
    _open_air(sheet, "water", 0.25, (0.26, 0.4), 0.0)
    shore = sheet.rng.uniform(0.6, 0.74)
    sheet.below("sand", shore, 0.018)
    return None


def _town(sheet: _Sheet) -> Marks:
    _open_air(sheet, "pavement", 0.15, (0.34, 0.46), 0.0)
    if sheet.rng.random() < 0.35:
        sheet.blob("grass", ("pavement",), sheet.rng.uniform(0.25, 0.4))
        return None
    return sheet.road("pavement")


def _winter(sheet: _Sheet) -> Marks:
    _open_air(sheet, "snow", 0.6, (0.3, 0.5), 0.014)
    choice = sheet.rng.random()
    if choice < 0.35:
        return sheet.road("snow")
    if choice < 0.65:
        sheet.blob("water", ("snow",), sheet.rng.uniform(0.2, 0.34))
    return None


def _lake(sheet: _Sheet) -> Marks:
    _open_air(sheet, "water", 0.8, (0.3, 0.42), 0.0)
    sheet.below("grass", sheet.rng.uniform(0.62, 0.76), 0.02)
    return None


def _desert(sheet: _Sheet) -> Marks:
    _open_air(sheet, "sand", 0.6, (0.3, 0.48), 0.016)
    return sheet.road("sand") if sheet.rng.random() < 0.5 else None


def _room(sheet: _Sheet) -> Marks:
    sheet.fill("wall")
    line = sheet.rng.uniform(0.42, 0.58)
    sheet.horizon = round(line * sheet.height)
    sheet.below("floor", line)
    if sheet.rng.random() < 0.65:
        sheet.rug()
    return None


def _under_water(sheet: _Sheet) -> Marks:
    sheet.fill("water")
    line = sheet.rng.uniform(0.72, 0.84)
    sheet.horizon = round(0.3 * sheet.height)
    sheet.below("sand", line, 0.02)
    return None


LAYOUTS: dict[str, tuple[Callable[[_Sheet], Marks], float, tuple[str, ...]]] = {
    "meadow": (_meadow, 0.2, ("sky", "grass")),
    "seaside": (_seaside, 0.15, ("sky", "water", "sand")),
    "town": (_town, 0.16, ("sky", "pavement")),
    "winter": (_winter, 0.14, ("sky", "snow")),
    "lake": (_lake, 0.12, ("sky", "water", "grass")),
    "desert": (_desert, 0.07, ("sky", "sand")),
    "room": (_room, 0.13, ("wall", "floor")),
    "under water": (_under_water, 0.03, ("water", "sand")),
}
"""Name -> (how to lay it out, how often, the stuff it always has)."""


def make_scene(rng: np.random.Generator, name: str, width: int, height: int) -> Scene:
    """Lay out and paint one scene of `LAYOUTS`, deterministically from `rng`."""
    sheet = _Sheet(rng, width, height)
    marks = LAYOUTS[name][0](sheet)
    canvas = paint(rng, sheet.map, marks)
    tint = np.array(TINTS[rng.integers(len(TINTS))], np.float32)
    return Scene(name, sheet.map, canvas, tint, sheet.horizon)
