"""Drawing function of the person."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..pen import COAT, Pen, darker

SKINS = ((250, 218, 190), (236, 190, 152), (206, 150, 110), (150, 100, 70), (104, 70, 52))
HAIRS = ((60, 42, 34), (116, 74, 40), (214, 168, 84), (180, 84, 40), (40, 40, 48), (170, 168, 166))
TROUSERS = ((62, 70, 96), (112, 88, 66), (96, 108, 112), (150, 132, 104), (70, 96, 84))
_DARK = (34, 28, 34)


def person(pen: Pen, rng: np.random.Generator) -> None:
    """Draw a person from the front: legs, arms, torso, and a head with eyes and mouth."""
    skin = SKINS[rng.integers(len(SKINS))]
    hair = HAIRS[rng.integers(len(HAIRS))]
    trousers = TROUSERS[rng.integers(len(TROUSERS))]
    middle = pen.aspect / 2
    spread = rng.uniform(0.05, 0.1)
    for side in (-1, 1):
        pen.part("leg")
        hip, foot = middle + side * 0.065, middle + side * (0.03 + spread)
        pen.limb((hip, 0.74), (foot, 0.955), 0.066, 0.055, trousers)
        pen.ellipse((foot + side * 0.02, 0.965), (0.07, 0.036), darker(trousers, 0.6))
    pose = rng.integers(3)
    for side in (-1, 1):
        pen.part("arm")
        raised = pose == 1 or (pose == 2 and side == 1)
        hand = (
            middle + side * 0.265,
            rng.uniform(0.36, 0.42) if raised else rng.uniform(0.63, 0.69),
        )
        shoulder = (middle + side * 0.11, 0.505)
        elbow = (shoulder[0] + 0.55 * (hand[0] - shoulder[0]), 0.5 * (shoulder[1] + hand[1]) + 0.02)
        pen.limb(elbow, hand, 0.04, 0.034, skin)
        pen.ellipse(hand, (0.046, 0.046), skin)
        pen.limb(shoulder, elbow, 0.055, 0.048, COAT)
    pen.part("torso")
    pen.blob(
        [
            (middle - 0.1, 0.43),
            (middle + 0.1, 0.43),
            (middle + 0.16, 0.5),
            (middle + 0.15, 0.74),
            (middle + 0.13, 0.79),
            (middle - 0.13, 0.79),
            (middle - 0.15, 0.74),
            (middle - 0.16, 0.5),
        ],
        COAT,
    )
    _head(pen, rng, middle, skin, hair)


def _head(
    pen: Pen, rng: np.random.Generator, middle: float, skin: tuple[Any, ...], hair: tuple[Any, ...]
) -> None:
    head = pen.part("head")
    style = rng.integers(3)
    top, radius = 0.235, 0.205
    if style == 0:
        pen.ellipse((middle, top - 0.005), (radius + 0.03, radius + 0.02), hair)
        pen.box(middle - radius - 0.03, top, middle + radius + 0.03, top + 0.21, hair, 0.05)
    elif style == 1:
        pen.ellipse((middle, top - 0.03), (radius + 0.012, radius), hair)
    for side in (-1, 1):
        pen.ellipse((middle + side * radius, top + 0.02), (0.035, 0.045), skin)
    pen.ellipse((middle, top), (radius, radius), skin)
    fringe = np.linspace(np.pi, 2 * np.pi, 15)
    arc = np.stack([middle + 0.21 * np.cos(fringe), top - 0.05 + 0.17 * np.sin(fringe)], 1)
    parting = middle + rng.uniform(-0.08, 0.08)
    pen.polygon(np.concatenate([arc, [[parting, top - 0.1]]]), hair)
    look = rng.uniform(-0.012, 0.012)
    for side in (-1, 1):
        pen.part("eye", head)
        eye = (middle + side * 0.085, top + 0.015)
        pen.ellipse(eye, (0.052, 0.056), (252, 252, 250))
        pen.ellipse((eye[0] + look, eye[1] + 0.005), (0.027, 0.032), _DARK, outline=False)
    pen.part("mouth", head)
    lips = (196, 60, 66)
    if rng.random() < 0.5:
        pen.ellipse((middle, top + 0.122), (0.07, 0.034), lips)
    else:
        bow = np.linspace(0, np.pi, 11)
        smile = np.stack([middle + 0.085 * np.cos(bow), top + 0.1 + 0.062 * np.sin(bow)], 1)
        pen.polygon(smile, lips)
    pen.resume(head)
    pen.ellipse((middle + 0.0, top + 0.07), (0.02, 0.016), darker(skin, 0.22), outline=False)
