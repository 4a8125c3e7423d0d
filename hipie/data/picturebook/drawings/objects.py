"""Drawing functions of toys and household objects, which have no parts."""

from __future__ import annotations

import numpy as np

from ..pen import COAT, Pen, darker, lighter

_WOOD = (136, 96, 64)
_STRING = (92, 84, 86)


def ball(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a ball with a bright band and a highlight."""
    pen.part("whole")
    pen.ellipse((0.5, 0.5), (0.49, 0.49), COAT)
    turn = rng.uniform(-0.7, 0.7)
    angle = np.linspace(-1.0, 1.0, 13)
    for side, reach in ((1, 0.3), (-1, 0.3)):
        curve = np.stack([side * (0.49 - reach * np.cos(angle)), 0.49 * np.sin(angle * 1.16)], 1)
        cosine, sine = np.cos(turn), np.sin(turn)
        turned = curve @ np.array([[cosine, sine], [-sine, cosine]]) + 0.5
        keep = np.linalg.norm(turned - 0.5, axis=1) < 0.48
        pen.line(turned[keep], darker(pen.coat, 0.55), 0.03)
    pen.ellipse((0.34, 0.28), (0.1, 0.065), lighter(pen.coat, 0.75), -0.7, outline=False)


def balloon(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a balloon on a curly string."""
    pen.part("whole")
    middle = pen.aspect / 2
    t = np.linspace(0, 1, 17)
    sway = rng.uniform(0.03, 0.06) * np.sin(t * 2.4 * np.pi)
    pen.line(np.stack([middle + sway, 0.64 + 0.36 * t], 1), _STRING, 0.022)
    pen.polygon([(middle - 0.06, 0.675), (middle + 0.06, 0.675), (middle, 0.6)], COAT)
    angle = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    x = middle + 0.265 * np.cos(angle) * (1 - 0.12 * np.sin(angle))
    pen.polygon(np.stack([x, 0.325 + 0.315 * np.sin(angle)], 1), COAT)
    pen.ellipse((middle - 0.11, 0.18), (0.045, 0.075), lighter(pen.coat, 0.75), 0.5, outline=False)


def kite(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a diamond kite with a cross of sticks and a tail with bows."""
    pen.part("whole")
    middle = pen.aspect / 2
    t = np.linspace(0, 1, 15)
    wave = rng.choice([-1, 1]) * 0.1 * np.sin(t * 2 * np.pi)
    tail = np.stack([middle + wave, 0.62 + 0.37 * t], 1)
    pen.line(tail, _STRING, 0.022)
    for at in (6, 11):
        x, y = tail[at]
        for side in (-1, 1):
            pen.polygon(
                [(x, y), (x + side * 0.08, y - 0.05), (x + side * 0.08, y + 0.05)],
                lighter(pen.coat, 0.3),
            )
    corners = [(middle, 0.0), (middle + 0.34, 0.26), (middle, 0.65), (middle - 0.34, 0.26)]
    pen.polygon(corners, COAT)
    pen.line([corners[0], corners[2]], darker(pen.coat, 0.6), 0.022)
    pen.line([corners[3], corners[1]], darker(pen.coat, 0.6), 0.022)


def umbrella(pen: Pen, rng: np.random.Generator) -> None:
    """Draw an open umbrella: a scalloped dome on a hooked stick."""
    pen.part("whole")
    middle = pen.aspect / 2
    hook = rng.choice([-1, 1])
    pen.line([(middle, 0.0), (middle, 0.1)], _WOOD, 0.03)
    bow = np.linspace(0, np.pi, 9)
    end = np.stack([middle + hook * (0.07 - 0.07 * np.cos(bow)), 0.9 + 0.075 * np.sin(bow)], 1)
    pen.line(np.concatenate([[(middle, 0.3), (middle, 0.8)], end]), _WOOD, 0.042)
    dome = np.linspace(np.pi, 2 * np.pi, 25)
    top = np.stack([middle + 0.515 * np.cos(dome), 0.5 + 0.44 * np.sin(dome)], 1)
    x = np.linspace(middle + 0.515, middle - 0.515, 29)
    scallop = 0.5 - 0.05 * np.abs(np.sin((x - middle + 0.515) / 1.03 * 4 * np.pi))
    pen.polygon(np.concatenate([top, np.stack([x, scallop], 1)[1:-1]]), COAT)
    for foot in (-0.2575, 0.0, 0.2575):
        t = np.linspace(0, 1, 7)
        rib = np.stack([middle + foot * np.sin(t * np.pi / 2), 0.06 + 0.44 * t**1.3], 1)
        pen.line(rib, darker(pen.coat, 0.45))


def chair(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a chair seen from its side and front: back, seat and four legs."""
    pen.part("whole")
    wood = darker(_WOOD, rng.uniform(0, 0.3))
    for x in (0.13, 0.57):
        pen.box(x, 0.6, x + 0.06, 0.93, darker(wood, 0.25))
    for x in (0.04, 0.65):
        pen.box(x, 0.6, x + 0.075, 1.0, wood)
    pen.box(0.1, 0.42, 0.16, 0.6, wood)
    pen.box(0.59, 0.42, 0.65, 0.6, wood)
    pen.box(0.07, 0.0, 0.68, 0.47, COAT, rng.choice([0.04, 0.2]))
    pen.polygon(
        [(0.09, 0.54), (0.66, 0.54), (0.75, 0.65), (0.75, 0.72), (0.0, 0.72), (0.0, 0.65)], COAT
    )


def cup(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a cup with a ring of a handle, seen a little from above."""
    pen.part("whole")
    loop = np.linspace(-1.45, 1.45, 15)
    ring = np.stack([0.8 + 0.29 * np.cos(loop), 0.5 + 0.27 * np.sin(loop)], 1)
    pen.line(ring, darker(pen.coat, 0.55), 0.13)
    pen.line(ring, pen.coat, 0.075)
    narrow = rng.uniform(0.06, 0.16)
    pen.blob(
        [
            (0.02, 0.16),
            (0.1, 0.16),
            (0.76, 0.16),
            (0.84, 0.16),
            (0.84 - narrow, 0.86),
            (0.7 - narrow, 0.98),
            (0.16 + narrow, 0.98),
            (0.02 + narrow, 0.86),
        ],
        COAT,
    )
    pen.ellipse((0.43, 0.15), (0.41, 0.12), lighter(pen.coat, 0.5))
    pen.ellipse((0.43, 0.17), (0.33, 0.08), (120, 78, 56))


def teapot(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a round teapot: spout to the right, handle to the left, lid with a knob."""
    pen.part("whole")
    loop = np.linspace(np.pi - 1.4, np.pi + 1.4, 15)
    ring = np.stack([0.32 + 0.27 * np.cos(loop), 0.56 + 0.26 * np.sin(loop)], 1)
    pen.line(ring, darker(pen.coat, 0.55), 0.12)
    pen.line(ring, pen.coat, 0.07)
    lift = rng.uniform(0.0, 0.08)
    pen.blob(
        [
            (1.0, 0.78),
            (1.2, 0.62),
            (1.3, 0.34 - lift),
            (1.44, 0.3 - lift),
            (1.36, 0.6),
            (1.14, 0.9),
        ],
        COAT,
    )
    pen.ellipse((0.7, 0.62), (0.47, 0.37), COAT)
    pen.ellipse((0.7, 0.27), (0.26, 0.085), lighter(pen.coat, 0.35))
    pen.ellipse((0.7, 0.14), (0.07, 0.07), lighter(pen.coat, 0.35))
    pen.box(0.44, 0.95, 0.96, 1.0, darker(pen.coat, 0.3), 0.02)
