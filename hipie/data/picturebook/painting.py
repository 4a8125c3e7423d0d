"""Rendering of stuff with sampled palettes and textures."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from .classes import STUFF
from .textures import backdrop_texture, ground_texture

INDEX: dict[str, int] = {stuff.name: number for number, stuff in enumerate(STUFF)}
_STANDING = ("sky", "mountain", "wall")

PALETTES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "sky": (
        (150, 204, 240),
        (246, 196, 168),
        (196, 186, 232),
        (204, 214, 220),
        (250, 220, 150),
        (70, 84, 140),
    ),
    "mountain": (
        (140, 128, 170),
        (112, 146, 150),
        (160, 128, 104),
        (120, 150, 104),
        (176, 170, 176),
        (196, 120, 100),
    ),
    "grass": (
        (136, 192, 92),
        (98, 160, 92),
        (184, 192, 90),
        (98, 176, 150),
        (208, 170, 92),
        (170, 172, 110),
    ),
    "road": ((138, 136, 142), (164, 146, 130), (116, 120, 140), (190, 178, 160), (150, 120, 116)),
    "water": (
        (94, 164, 212),
        (92, 188, 184),
        (146, 140, 208),
        (112, 170, 132),
        (216, 160, 170),
        (60, 96, 150),
    ),
    "sand": ((236, 212, 156), (224, 180, 136), (214, 200, 184), (240, 196, 186), (200, 176, 110)),
    "snow": ((240, 244, 248), (212, 226, 244), (244, 226, 232), (222, 220, 242), (206, 232, 232)),
    "pavement": (
        (200, 126, 104),
        (176, 160, 150),
        (212, 180, 130),
        (150, 146, 166),
        (146, 170, 142),
    ),
    "wall": (
        (240, 214, 196),
        (190, 216, 196),
        (196, 206, 236),
        (238, 222, 150),
        (214, 160, 164),
        (122, 150, 160),
    ),
    "floor": ((194, 140, 92), (222, 184, 132), (146, 98, 74), (168, 156, 146), (190, 110, 80)),
    "carpet": (
        (190, 84, 84),
        (92, 120, 176),
        (116, 156, 110),
        (214, 170, 90),
        (150, 108, 164),
        (120, 110, 110),
    ),
}
STRENGTH: dict[str, float] = {
    "sky": 52, "mountain": 26, "grass": 40, "road": 30, "water": 38, "sand": 27, "snow": 36,
    "pavement": 44, "wall": 34, "floor": 36, "carpet": 38,
}  # fmt: skip
TINTS: tuple[tuple[float, float, float], ...] = (
    (1.0, 1.0, 1.0),
    (1.0, 1.0, 1.0),
    (1.04, 0.97, 0.88),
    (0.88, 0.9, 1.02),
    (0.95, 0.96, 0.98),
)


def paint(
    rng: np.random.Generator, stuff: NDArray[Any], marks: NDArray[Any] | None
) -> NDArray[Any]:
    """Render a label map of stuff as an RGB image.

    Args:
        rng: generator of the textures.
        stuff: int8 [H,W], index into `STUFF`.
        marks: bool [H,W], the white lines of a road; None without.

    Returns:
        float32 [H,W,3] RGB, about 0..255.
    """
    height, width = stuff.shape
    canvas = np.zeros((height, width, 3), np.float32)
    scale = min(width, height) / 320
    for kind, number in INDEX.items():
        mask = stuff == number
        if not mask.any():
            continue
        base = np.array(PALETTES[kind][rng.integers(len(PALETTES[kind]))], np.float32)
        base = base + rng.uniform(-9, 9, 3).astype(np.float32)
        first, last = np.flatnonzero(mask.any(1))[[0, -1]]
        rows = slice(first, last + 1)
        relief, strength = _relief(rng, kind, width, last + 1 - first, scale)
        fade = np.linspace(-1, 1, last + 1 - first, dtype=np.float32)[:, None]
        slope = 16.0 if kind == "sky" else -9.0
        painted = base + (strength * relief + slope * fade)[..., None]
        if kind == "road" and marks is not None:
            painted[marks[rows]] = np.clip(base + 62, 0, 252)
        if kind == "sky" and rng.random() < 0.45:
            painted = _sun(rng, painted, scale)
        selected = mask[rows][..., None]
        canvas[rows] = np.where(selected, painted, canvas[rows])
    _edges(canvas, stuff)
    return canvas


def _sun(rng: np.random.Generator, painted: NDArray[Any], scale: float) -> NDArray[Any]:
    """Blend a pale disc with a halo, the sun, into the sky."""
    height, width = painted.shape[:2]
    centre = rng.uniform((0.08, 0.12), (0.92, 0.5)) * (width, height)
    radius = rng.uniform(13, 24) * scale
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    distance = np.hypot(x - centre[0], y - centre[1]) / radius
    halo = 0.55 * np.exp(-np.maximum(distance - 1, 0) * 0.9)
    share = np.where(distance < 1, 0.92, halo)[..., None].astype(np.float32)
    return painted * (1 - share) + share * np.array((255, 244, 206), np.float32)


def _relief(
    rng: np.random.Generator, kind: str, width: int, height: int, scale: float
) -> tuple[NDArray[Any], float]:
    offset = rng.uniform(0, 512, 2)
    scale = scale * rng.uniform(0.85, 1.2)
    strength = STRENGTH[kind] * rng.uniform(0.8, 1.15)
    name = "wall striped" if kind == "wall" and rng.random() < 0.4 else kind
    if kind in _STANDING:
        return backdrop_texture(name, width, height, scale, offset), strength
    return ground_texture(name, width, height, scale, offset), strength


def _edges(canvas: NDArray[Any], stuff: NDArray[Any]) -> None:
    """Darken the borders between stuff classes, in place."""
    border = np.zeros(stuff.shape, np.uint8)
    border[1:] |= stuff[1:] != stuff[:-1]
    border[:, 1:] |= stuff[:, 1:] != stuff[:, :-1]
    blurred = cv2.GaussianBlur(border.astype(np.float32), (3, 3), 0.8)
    canvas *= 1 - 0.34 * np.minimum(blurred * 1.6, 1)[..., None]
