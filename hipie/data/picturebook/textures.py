"""Procedural textures of stuff: seamless tiles, drawn once a process from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

TILE = 512
"""Side of every tile in pixels; a tile is float32 [TILE,TILE], about -1 (dark) .. 1 (light)."""


def _noise(rng: np.random.Generator, across: int, down: int) -> NDArray[Any]:
    """Sample smooth periodic noise on a grid of `down` x `across`, zero mean, unit deviation."""
    grid = rng.standard_normal((down, across)).astype(np.float32)
    padded = np.pad(grid, 3, mode="wrap")
    size = (round(TILE * (across + 6) / across), round(TILE * (down + 6) / down))
    large = cv2.resize(padded, size, interpolation=cv2.INTER_CUBIC)
    top, left = round(3 * TILE / down), round(3 * TILE / across)
    cut = large[top : top + TILE, left : left + TILE]
    return (cut - cut.mean()) / cut.std()


def _wrapped(draw: Callable[[NDArray[Any]], None], points: NDArray[Any], reach: int) -> None:
    """Call `draw` for a stroke and its periodic copies that overlap the tile."""
    low, high = points.min(0) - reach, points.max(0) + reach
    for dx in (-TILE, 0, TILE):
        for dy in (-TILE, 0, TILE):
            if high[0] + dx > 0 and low[0] + dx < TILE and high[1] + dy > 0 and low[1] + dy < TILE:
                draw(points + (dx, dy))


def _strokes(
    tile: NDArray[Any],
    rng: np.random.Generator,
    count: int,
    shape: Callable[[np.random.Generator], NDArray[Any]],
    thickness: int,
    values: tuple[float, float],
) -> None:
    for _ in range(count):
        points = shape(rng) + rng.uniform(0, TILE, 2)
        value = float(rng.uniform(min(values), max(values)))

        def draw(shifted: NDArray[Any], value: float = value) -> None:
            fixed_point = [np.round(shifted * 16).astype(np.int32)]
            cv2.polylines(tile, fixed_point, False, value, thickness, cv2.LINE_AA, 4)

        _wrapped(draw, points, thickness + 1)


def _sky(rng: np.random.Generator) -> NDArray[Any]:
    soft = _noise(rng, 3, 8) + 0.6 * _noise(rng, 7, 15) + 0.25 * _noise(rng, 20, 34)
    return np.clip((soft - 0.5) * 0.9, -0.12, 1.0)


def _hatch(slope: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return slope * rng.uniform(0.6, 1.4)


def _mountain(rng: np.random.Generator) -> NDArray[Any]:
    tile = np.where(_noise(rng, 9, 7) > 0, 0.45, -0.45).astype(np.float32)
    slope = np.array([[0.0, 0.0], [16.0, 30.0]])
    for sign, value in ((1, 0.55), (-1, -0.75)):
        _strokes(tile, rng, 420, partial(_hatch, slope * (sign, 1)), 2, (value, value * 0.7))
    return tile


def _grass(rng: np.random.Generator) -> NDArray[Any]:
    tile = 0.25 * _noise(rng, 12, 12)

    def blade(r: np.random.Generator) -> NDArray[Any]:
        lean, tall = r.uniform(-5, 5), r.uniform(9, 17)
        return np.array([[0, 0], [lean * 0.3, -tall * 0.6], [lean, -tall]])

    _strokes(tile, rng, 1500, blade, 2, (-0.95, -0.3))
    _strokes(tile, rng, 1500, blade, 2, (0.3, 0.95))
    return tile


def _road(rng: np.random.Generator) -> NDArray[Any]:
    grain = rng.standard_normal((TILE // 2, TILE // 2)).astype(np.float32)
    grain = cv2.resize(grain, (TILE, TILE), interpolation=cv2.INTER_LINEAR)
    return np.clip(0.55 * grain + 0.15 * _noise(rng, 9, 9), -1, 1)


def _water(rng: np.random.Generator) -> NDArray[Any]:
    tile = 0.2 * _noise(rng, 4, 14)

    def wave(r: np.random.Generator) -> NDArray[Any]:
        long, swell = r.uniform(24, 60), r.uniform(2.2, 4.2)
        x = np.linspace(0, long, 13)
        return np.stack([x, swell * np.sin(x / 7.5)], 1)

    _strokes(tile, rng, 150, wave, 3, (0.55, 1.0))
    _strokes(tile, rng, 150, wave, 3, (-0.8, -0.4))
    return tile


def _sand(rng: np.random.Generator) -> NDArray[Any]:
    y = np.arange(TILE, dtype=np.float32)[:, None]
    bent = y + 9 * _noise(rng, 5, 5)
    tile = (0.33 * np.sin(bent * 2 * np.pi / 32)).astype(np.float32)
    _strokes(tile, rng, 900, lambda r: np.zeros((2, 2)), 3, (-0.9, -0.4))
    _strokes(tile, rng, 600, lambda r: np.zeros((2, 2)), 2, (0.5, 1.0))
    return tile


def _snow(rng: np.random.Generator) -> NDArray[Any]:
    tile = 0.45 * _noise(rng, 4, 8)
    for _ in range(110):
        centre, reach = rng.uniform(0, TILE, 2), rng.uniform(4.0, 8.0)
        for turn in np.arange(3) * np.pi / 3:
            tip = reach * np.array([np.cos(turn), np.sin(turn)])

            def draw(shifted: NDArray[Any]) -> None:
                fixed_point = [np.round(shifted * 16).astype(np.int32)]
                cv2.polylines(tile, fixed_point, False, -1.3, 1, cv2.LINE_AA, 4)

            _wrapped(draw, np.array([centre - tip, centre + tip]), 2)
    return tile


def _pavement(rng: np.random.Generator) -> NDArray[Any]:
    tile = np.zeros((TILE, TILE), np.float32)
    brick_height, brick_width = 16, 32
    for row in range(TILE // brick_height):
        shift = (row % 2) * brick_width // 2
        for column in range(TILE // brick_width):
            x, y = column * brick_width + shift, row * brick_height
            value = float(rng.uniform(-0.25, 0.55))
            for dx in (0, -TILE):
                cv2.rectangle(
                    tile, (x + dx, y), (x + dx + brick_width - 1, y + brick_height - 1), value, -1
                )
                cv2.rectangle(
                    tile, (x + dx, y), (x + dx + brick_width - 1, y + brick_height - 1), -0.95, 1
                )
    return tile + 0.06 * _noise(rng, 64, 64)


def _wall(rng: np.random.Generator) -> NDArray[Any]:
    """Draw wallpaper with rows of flowers of five dots."""
    tile = np.zeros((TILE, TILE), np.float32)
    step = 32
    for row in range(TILE // step):
        for column in range(TILE // step):
            x, y = column * step + step // 2, row * step + step // 2
            if (row + column) % 2:
                cv2.circle(tile, (x, y), 2, -0.75, -1, cv2.LINE_AA)
                continue
            for turn in np.arange(5) * 2 * np.pi / 5:
                centre = (round(x + 6 * np.cos(turn)), round(y + 6 * np.sin(turn)))
                cv2.circle(tile, centre, 4, 0.9, -1, cv2.LINE_AA)
            cv2.circle(tile, (x, y), 3, -0.7, -1, cv2.LINE_AA)
    return tile


def _wall_striped(rng: np.random.Generator) -> NDArray[Any]:
    """Draw wallpaper with vertical stripes."""
    x = np.arange(TILE)
    band = np.where((x // 16) % 2 == 0, 0.45, -0.3)
    band = np.where(x % 16 == 0, -0.8, band).astype(np.float32)
    return np.repeat(band[None], TILE, 0)


def _floor(rng: np.random.Generator) -> NDArray[Any]:
    tile = np.zeros((TILE, TILE), np.float32)
    grain = _noise(rng, 4, 128)
    board_width = 32
    for row in range(TILE // board_width):
        shift = int(rng.integers(TILE))
        for board in range(3):
            value = float(rng.uniform(-0.35, 0.35))
            x, y, long = shift + board * 171, row * board_width, 171
            for dx in (-TILE, 0, TILE):
                tile[y : y + board_width, max(0, x + dx) : max(0, min(TILE, x + dx + long))] = value
                cv2.line(tile, (x + dx, y), (x + dx, y + board_width - 1), -1.0, 2)
        tile[row * board_width : row * board_width + 2] = -1.0
    return tile + 0.16 * grain


def _carpet(rng: np.random.Generator) -> NDArray[Any]:
    y, x = np.mgrid[0:TILE, 0:TILE].astype(np.float32)
    zigzag = y + 10 * np.abs(((x / 32) % 1.0) - 0.5) * 2
    tile = np.where((zigzag / 16) % 2 < 1, 0.6, -0.5).astype(np.float32)
    return tile + 0.2 * np.sign(np.sin(x * np.pi / 2)) * np.sign(np.sin(y * np.pi / 2))


_TILES = {
    "sky": _sky, "mountain": _mountain, "grass": _grass, "road": _road, "water": _water,
    "sand": _sand, "snow": _snow, "pavement": _pavement, "wall": _wall,
    "wall striped": _wall_striped, "floor": _floor, "carpet": _carpet,
}  # fmt: skip


@cache
def tile(name: str) -> NDArray[Any]:
    """Return the tile of a texture; raise KeyError for an unknown name."""
    number = list(_TILES).index(name) if name in _TILES else None
    if number is None:
        raise KeyError(f"there is no texture {name!r}; there are {', '.join(_TILES)}")
    drawn = np.ascontiguousarray(_TILES[name](np.random.default_rng([2305, number])), np.float32)
    drawn.setflags(write=False)
    return drawn


def backdrop_texture(
    name: str, width: int, height: int, scale: float, offset: NDArray[Any]
) -> NDArray[Any]:
    """Return a texture in frontal view [height, width], scaled and shifted by `offset` (x, y)."""
    step = 1.0 / scale
    matrix = np.array([[step, 0, offset[0]], [0, step, offset[1]]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        tile(name), matrix, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP
    )


def ground_texture(
    name: str, width: int, height: int, scale: float, offset: NDArray[Any], far: float = 0.55
) -> NDArray[Any]:
    """Return a texture in perspective view [height, width], smaller at the top (the horizon)."""
    rise = (1 - far) / max(height, 1)
    reach = height / (1 - far) / scale
    step = 1.0 / scale
    plane = np.array([[step, 0, -step * width / 2], [0, 0, -reach], [0, rise, far]])
    shift = np.array([[1.0, 0, offset[0]], [0, 1.0, offset[1]], [0, 0, 1]])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(
        tile(name), shift @ plane, (width, height), flags=flags, borderMode=cv2.BORDER_WRAP
    )
