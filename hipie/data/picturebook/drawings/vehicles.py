"""Drawing functions of vehicles and houses."""

from __future__ import annotations

import numpy as np

from ..pen import COAT, Pen, darker, lighter

_TYRE = (48, 46, 52)
_HUB = (206, 206, 206)
_GLASS = (196, 226, 236)
_LAMP = (252, 236, 150)
ROOFS = ((176, 84, 66), (112, 84, 76), (92, 100, 124), (150, 118, 80), (84, 114, 96))
WOODS = ((146, 98, 62), (112, 78, 56), (176, 132, 86))


def _wheels(pen: Pen, places: tuple[float, ...], radius: float) -> None:
    for x in places:
        pen.part("wheel")
        pen.ellipse((x, 1 - radius), (radius, radius), _TYRE)
        pen.ellipse((x, 1 - radius), (radius * 0.55, radius * 0.55), _HUB)
        pen.ellipse((x, 1 - radius), (radius * 0.18, radius * 0.18), _TYRE, outline=False)


def car(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a small car facing right, with two big windows and two big wheels."""
    pen.part("body")
    back = rng.uniform(0.2, 0.34)
    pen.polygon([(back, 0.46), (back + 0.16, 0.06), (1.14, 0.06), (1.42, 0.46)], COAT)
    pen.blob(
        [
            (0.04, 0.5),
            (0.3, 0.42),
            (0.9, 0.42),
            (1.46, 0.43),
            (1.78, 0.5),
            (1.83, 0.7),
            (1.76, 0.82),
            (0.9, 0.83),
            (0.08, 0.82),
            (0.01, 0.68),
        ],
        COAT,
    )
    pen.ellipse((1.74, 0.58), (0.06, 0.065), _LAMP)
    pen.box(0.02, 0.56, 0.11, 0.65, (226, 92, 82), 0.03)
    for corners in (
        [(back + 0.09, 0.43), (back + 0.22, 0.13), (0.74, 0.13), (0.74, 0.43)],
        [(0.82, 0.43), (0.82, 0.13), (1.1, 0.13), (1.31, 0.43)],
    ):
        pen.part("window")
        pen.polygon(corners, _GLASS)
    pen.resume(0)
    pen.line([(0.78, 0.5), (0.78, 0.76)], darker(pen.coat, 0.5))
    _wheels(pen, (0.44, 1.4), 0.21)


def bus(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a bus facing right: a tall box with a row of windows."""
    pen.part("body")
    pen.box(0.02, 0.03, 1.82, 0.86, COAT, 0.1)
    pen.box(0.02, 0.6, 1.82, 0.68, lighter(pen.coat, 0.6))
    pen.ellipse((1.76, 0.76), (0.05, 0.05), _LAMP)
    count = int(rng.integers(4, 6))
    edges = np.linspace(0.1, 1.76, count + 1)
    for left, right in zip(edges[:-1], edges[1:], strict=True):
        pen.part("window")
        pen.box(left + 0.03, 0.14, right - 0.03, 0.52, _GLASS, 0.03)
    _wheels(pen, (0.4, 1.42), 0.18)


def boat(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a sailing boat: hull and, on a mast, one or two sails."""
    pen.part("sail")
    pen.box(0.475, 0.0, 0.515, 0.72, WOODS[0])
    bulge = rng.uniform(0.0, 0.05)
    pen.polygon([(0.54, 0.04), (0.72 + bulge, 0.26), (0.9, 0.64), (0.54, 0.64)], COAT)
    if rng.random() < 0.75:
        pen.part("sail")
        pen.polygon(
            [(0.45, 0.12), (0.3 - bulge, 0.36), (0.14, 0.64), (0.45, 0.64)], lighter(pen.coat, 0.55)
        )
    pen.part("hull")
    pen.polygon([(0.0, 0.7), (1.0, 0.7), (0.9, 0.88), (0.8, 1.0), (0.2, 1.0), (0.08, 0.88)], COAT)
    pen.polygon([(0.0, 0.7), (1.0, 0.7), (0.97, 0.76), (0.03, 0.76)], WOODS[2])


def house(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a house from the front: wall, roof with a chimney, door and windows."""
    roof = ROOFS[rng.integers(len(ROOFS))]
    middle, peak = pen.aspect / 2, rng.uniform(0.02, 0.08)
    pen.part("wall")
    pen.box(0.12, 0.4, 0.93, 1.0, COAT)
    pen.part("roof")
    chimney = 0.2 if rng.random() < 0.5 else 0.72
    pen.box(chimney, 0.06, chimney + 0.12, 0.32, darker(roof, 0.25))
    ridge = rng.choice([0.0, 0.2])
    pen.polygon([(middle - ridge, peak), (middle + ridge, peak), (1.04, 0.46), (0.01, 0.46)], roof)
    for height in (0.2, 0.33):
        half = ridge + (0.515 - ridge) * (height - peak) / (0.46 - peak)
        pen.line(
            [(middle - half * 0.92, height), (middle + half * 0.92, height)], darker(roof, 0.25)
        )
    wood = WOODS[rng.integers(len(WOODS))]
    places = [(0.2, 0.42, 0.5, 0.86), (0.62, 0.86, 0.2, 0.54), (0.415, 0.635, 0.17, 0.71)]
    left, right, first, second = places[rng.integers(len(places))]
    pen.part("door")
    pen.box(left, 0.62, right, 1.0, wood, 0.03)
    pen.ellipse((right - 0.05, 0.82), (0.02, 0.02), _LAMP)
    double = right - left > 0.215 and left > 0.4 and left < 0.5
    for x in (first, second) if double else (first,):
        pen.part("window")
        width = 0.17 if double else 0.24
        pen.box(x, 0.56, x + width, 0.8, _GLASS)
        pen.line([(x + width / 2, 0.56), (x + width / 2, 0.8)], (250, 250, 246), 0.02)
        pen.line([(x, 0.68), (x + width, 0.68)], (250, 250, 246), 0.02)
