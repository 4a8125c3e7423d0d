"""Drawing functions of trees and flowers."""

from __future__ import annotations

import numpy as np

from ..pen import COAT, Pen, darker, lighter

BARKS = ((122, 84, 58), (98, 72, 58), (150, 120, 92), (84, 62, 56))
_STEM = (74, 134, 66)


def tree(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a tree: a trunk under a round, cloudy or pointed crown."""
    bark = BARKS[rng.integers(len(BARKS))]
    middle = pen.aspect / 2
    pen.part("trunk")
    pen.blob(
        [
            (middle - 0.06, 0.5),
            (middle + 0.06, 0.5),
            (middle + 0.07, 0.8),
            (middle + 0.13, 0.99),
            (middle - 0.13, 0.99),
            (middle - 0.07, 0.8),
        ],
        bark,
    )
    pen.line([(middle - 0.02, 0.72), (middle - 0.01, 0.9)], darker(bark, 0.3))
    pen.part("crown")
    if rng.random() < 0.35:
        for top, bottom, half in ((0.38, 0.74, 0.35), (0.2, 0.54, 0.28), (0.02, 0.34, 0.2)):
            pen.polygon([(middle, top), (middle + half, bottom), (middle - half, bottom)], COAT)
        return
    lobes = int(rng.integers(7, 10))
    phase = rng.uniform(0, 2 * np.pi)
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    ripple = 1 + 0.09 * np.abs(np.sin(lobes * angle / 2 + phase))
    x = middle + 0.315 * ripple * np.cos(angle)
    y = 0.345 + 0.315 * ripple * np.sin(angle)
    pen.polygon(np.stack([x, y], 1), COAT)
    for _ in range(3):
        at = rng.uniform(-0.15, 0.15, 2)
        bow = np.linspace(0.2, np.pi - 0.2, 7)
        arc = np.stack([middle + at[0] + 0.06 * np.cos(bow), 0.34 + at[1] + 0.045 * np.sin(bow)], 1)
        pen.line(arc, darker(pen.coat, 0.35))


def flower(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a tall flower: a stem with leaves, a bloom of petals about a disc."""
    middle = pen.aspect / 2
    bend = rng.uniform(-0.05, 0.05)
    pen.part("stem")
    pen.ribbon([(middle, 0.42), (middle + bend, 0.7), (middle, 0.99)], 0.028, 0.036, _STEM)
    for side in (-1, 1):
        y = rng.uniform(0.74, 0.86)
        pen.blob(
            [
                (middle, y + 0.06),
                (middle + side * 0.12, y - 0.06),
                (middle + side * 0.26, y - 0.08),
                (middle + side * 0.16, y + 0.05),
            ],
            lighter(_STEM, 0.15),
        )
    pen.part("bloom")
    petals = int(rng.integers(5, 8))
    phase = rng.uniform(0, 2 * np.pi)
    for angle in phase + np.arange(petals) * 2 * np.pi / petals:
        centre = (middle + 0.165 * np.cos(angle), 0.27 + 0.165 * np.sin(angle))
        pen.ellipse(centre, (0.125, 0.095), COAT, angle)
    heart = (238, 190, 70) if rng.random() < 0.6 else (110, 74, 50)
    pen.ellipse((middle, 0.27), (0.1, 0.1), heart)
