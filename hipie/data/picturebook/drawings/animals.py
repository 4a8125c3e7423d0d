"""Drawing functions of animals, in profile or sitting."""

from __future__ import annotations

import numpy as np

from ..pen import COAT, Pen, darker, lighter

_DARK = (34, 28, 34)
_WHITE = (252, 252, 250)
_BEAK = (238, 168, 60)


def _eye(pen: Pen, x: float, y: float, size: float) -> None:
    pen.ellipse((x, y), (size, size * 1.1), _WHITE)
    pen.ellipse((x + size * 0.25, y + size * 0.1), (size * 0.5, size * 0.6), _DARK, outline=False)


def dog(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a standing dog with hanging ears and a raised tail."""
    pen.part("tail")
    lift = rng.uniform(-0.05, 0.18)
    pen.ribbon(
        [(0.3, 0.5), (0.14, 0.42), (0.08, 0.3 - lift), (0.13, 0.2 - lift)], 0.055, 0.03, COAT
    )
    step = rng.uniform(-0.05, 0.05)
    for x, shift in ((0.36, -step), (0.78, step), (0.26, step), (0.68, -step)):
        pen.part("leg")
        pen.limb((x, 0.68), (x + shift, 0.93), 0.075, 0.06, COAT)
        pen.ellipse((x + shift + 0.03, 0.955), (0.085, 0.045), lighter(pen.coat, 0.35))
    pen.part("torso")
    pen.blob(
        [
            (0.2, 0.52),
            (0.36, 0.43),
            (0.66, 0.44),
            (0.86, 0.42),
            (0.9, 0.6),
            (0.8, 0.74),
            (0.5, 0.73),
            (0.26, 0.75),
        ],
        COAT,
    )
    pen.part("head")
    nod = rng.uniform(-0.02, 0.03)
    pen.ellipse((0.86, 0.29 + nod), (0.21, 0.22), COAT)
    pen.ellipse((1.03, 0.38 + nod), (0.14, 0.105), lighter(pen.coat, 0.5))
    pen.ellipse((1.13, 0.33 + nod), (0.05, 0.042), _DARK)
    pen.line([(1.12, 0.42 + nod), (1.05, 0.44 + nod), (0.98, 0.42 + nod)], _DARK)
    _eye(pen, 0.92, 0.24 + nod, 0.05)
    pen.blob(
        [
            (0.7, 0.12 + nod),
            (0.8, 0.16 + nod),
            (0.81, 0.34 + nod),
            (0.73, 0.5 + nod),
            (0.64, 0.42 + nod),
            (0.63, 0.22 + nod),
        ],
        darker(pen.coat, 0.3),
    )


def cat(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a sitting cat with pointed ears, whiskers and a curled tail."""
    pen.part("tail")
    reach = rng.uniform(-0.04, 0.1)
    pen.ribbon(
        [(0.5, 0.92), (0.68, 0.92), (0.77, 0.75), (0.74 - reach / 2, 0.58), (0.8, 0.42 - reach)],
        0.05,
        0.035,
        COAT,
    )
    pen.part("torso")
    pen.blob(
        [
            (0.3, 0.42),
            (0.5, 0.42),
            (0.62, 0.66),
            (0.67, 0.88),
            (0.6, 0.97),
            (0.2, 0.97),
            (0.13, 0.88),
            (0.18, 0.66),
        ],
        COAT,
    )
    for side in (-1, 1):
        pen.part("leg")
        pen.limb((0.4 + side * 0.085, 0.68), (0.4 + side * 0.09, 0.93), 0.062, 0.06, COAT)
        pen.ellipse((0.4 + side * 0.1, 0.955), (0.085, 0.045), lighter(pen.coat, 0.45))
    pen.part("head")
    nod = rng.uniform(-0.01, 0.02)
    for side in (-1, 1):
        ear = np.array([(0.06, 0.15), (0.245, 0.0), (0.27, 0.2)])
        inner = np.array([(0.13, 0.13), (0.225, 0.05), (0.235, 0.16)])
        for shape, fill in ((ear, COAT), (inner, (232, 160, 160))):
            pen.polygon(np.stack([0.4 + side * shape[:, 0], shape[:, 1] + nod], 1), fill)
    pen.ellipse((0.4, 0.29 + nod), (0.28, 0.215), COAT)
    for side in (-1, 1):
        pen.ellipse(
            (0.4 + side * 0.055, 0.385 + nod), (0.075, 0.055), lighter(pen.coat, 0.6), outline=False
        )
        eye = (0.4 + side * 0.12, 0.27 + nod)
        pen.ellipse(eye, (0.06, 0.058), (206, 226, 128))
        pen.ellipse(eye, (0.02, 0.048), _DARK, outline=False)
        for drop in (-0.015, 0.02):
            pen.line(
                [(0.4 + side * 0.1, 0.375 + nod), (0.4 + side * 0.34, 0.365 + nod + 2 * drop)],
                darker(pen.coat, 0.7),
            )
    pen.polygon([(0.365, 0.33 + nod), (0.435, 0.33 + nod), (0.4, 0.375 + nod)], (216, 110, 120))


def bird(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a round bird with a beak; its wing is folded, raised or lowered."""
    pen.part("tail")
    pen.polygon(
        [(0.36, 0.5), (0.02, 0.36), (0.0, 0.52), (0.08, 0.66), (0.38, 0.7)], darker(pen.coat, 0.25)
    )
    pen.part("body")
    for x in (0.58, 0.7):
        pen.line([(x, 0.82), (x + 0.02, 0.97), (x + 0.09, 0.97)], (206, 126, 50), 0.032)
    pen.ellipse((0.62, 0.6), (0.38, 0.28), COAT, 0.12)
    pen.ellipse((0.72, 0.72), (0.2, 0.13), lighter(pen.coat, 0.5), 0.1, outline=False)
    pen.part("head")
    pen.polygon([(1.08, 0.2), (1.28, 0.33), (1.06, 0.42)], _BEAK)
    pen.ellipse((0.94, 0.32), (0.2, 0.21), COAT)
    _eye(pen, 1.0, 0.27, 0.06)
    pen.part("wing")
    pose = rng.integers(3)
    if pose == 0:
        tip = [(0.72, 0.5), (0.6, 0.44), (0.4, 0.5), (0.2, 0.74), (0.44, 0.74), (0.66, 0.68)]
    elif pose == 1:
        tip = [(0.74, 0.52), (0.64, 0.3), (0.42, 0.1), (0.2, 0.04), (0.3, 0.32), (0.46, 0.56)]
    else:
        tip = [(0.74, 0.5), (0.5, 0.46), (0.36, 0.66), (0.26, 0.96), (0.5, 0.9), (0.68, 0.72)]
    pen.blob(tip, darker(pen.coat, 0.22) if sum(pen.coat) > 300 else lighter(pen.coat, 0.3))


def fish(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a fish with a forked tail and fins above, below and on its side."""
    fin = darker(pen.coat, 0.25) if sum(pen.coat) > 300 else lighter(pen.coat, 0.35)
    wag = rng.uniform(-0.06, 0.06)
    pen.part("tail")
    pen.blob(
        [
            (0.5, 0.5),
            (0.26, 0.26 + wag),
            (0.04, 0.12 + wag),
            (0.14, 0.5 + wag / 2),
            (0.04, 0.88 + wag),
            (0.26, 0.74 + wag),
        ],
        fin,
    )
    pen.part("fin")
    pen.blob([(0.6, 0.3), (0.72, 0.02), (1.0, 0.02), (1.16, 0.26), (0.9, 0.34)], fin)
    pen.part("fin")
    pen.blob([(0.74, 0.74), (0.7, 0.98), (0.94, 0.96), (1.06, 0.74)], fin)
    pen.part("body")
    pen.blob(
        [
            (0.38, 0.5),
            (0.62, 0.26),
            (0.98, 0.14),
            (1.36, 0.28),
            (1.56, 0.5),
            (1.36, 0.74),
            (0.98, 0.86),
            (0.62, 0.74),
        ],
        COAT,
    )
    _eye(pen, 1.3, 0.42, 0.085)
    pen.line([(1.54, 0.56), (1.46, 0.6), (1.36, 0.6)], _DARK)
    pen.part("fin")
    pen.blob([(1.06, 0.52), (0.86, 0.46), (0.78, 0.6), (0.9, 0.7)], fin)


def horse(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a horse: long legs, a long neck with a mane, a hanging tail."""
    mane = darker(pen.coat, 0.55) if sum(pen.coat) > 260 else lighter(pen.coat, 0.5)
    swing = rng.uniform(-0.05, 0.05)
    pen.part("tail")
    pen.ribbon([(0.2, 0.42), (0.09, 0.46), (0.07, 0.62), (0.04 + swing, 0.8)], 0.05, 0.035, mane)
    for x, shift in ((0.3, -swing), (0.74, swing), (0.24, swing), (0.67, -swing)):
        pen.part("leg")
        pen.limb((x, 0.6), (x + shift, 0.93), 0.06, 0.038, COAT)
        pen.box(x + shift - 0.05, 0.92, x + shift + 0.055, 0.99, darker(pen.coat, 0.7), 0.02)
    pen.part("torso")
    pen.blob(
        [
            (0.17, 0.46),
            (0.32, 0.38),
            (0.58, 0.41),
            (0.72, 0.36),
            (0.82, 0.46),
            (0.78, 0.62),
            (0.5, 0.66),
            (0.24, 0.66),
        ],
        COAT,
    )
    pen.part("head")
    pen.blob(
        [
            (0.66, 0.5),
            (0.7, 0.3),
            (0.78, 0.12),
            (0.9, 0.08),
            (0.98, 0.16),
            (0.94, 0.32),
            (0.86, 0.52),
        ],
        COAT,
    )
    pen.polygon([(0.82, 0.12), (0.83, 0.0), (0.91, 0.09)], COAT)
    pen.blob(
        [(0.82, 0.12), (0.94, 0.09), (1.14, 0.27), (1.17, 0.37), (1.06, 0.4), (0.9, 0.3)], COAT
    )
    pen.ellipse((1.1, 0.34), (0.07, 0.058), lighter(pen.coat, 0.4), 0.5)
    _eye(pen, 0.96, 0.18, 0.038)
    pen.blob(
        [
            (0.82, 0.06),
            (0.74, 0.1),
            (0.62, 0.28),
            (0.58, 0.46),
            (0.66, 0.42),
            (0.72, 0.3),
            (0.8, 0.18),
        ],
        mane,
    )
