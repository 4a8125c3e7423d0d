"""Measures of a grey map against a mask: S (structure), E (alignment), F and MAE.

As `pysodmetrics` counts them, which the tests compare. `grey` is float64 [H, W] in 0..1, `mask`
bool [H, W]; both have at least one pixel.

S: Fan et al., ICCV 2017. E: Fan et al., IJCAI 2018. F: Achanta et al., CVPR 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TINY = np.spacing(1.0)
BETA_SQUARED = 0.3
OBJECT_SHARE = 0.5
LEVELS = 256


def stretched(grey: np.ndarray) -> np.ndarray:
    """uint8 [H, W] as float64, its lowest value at 0 and its highest at 1; a constant / 255."""
    values = grey / 255.0
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values


def mean_absolute_error(grey: np.ndarray, mask: np.ndarray) -> float:
    """The mean distance of the map from the mask."""
    return float(np.abs(grey - mask).mean())


@dataclass(frozen=True)
class Curve:
    """A measure at 256 thresholds (255, 254, ... 0), and at twice the map's mean."""

    at_levels: np.ndarray
    adaptive: float


def f_measure(grey: np.ndarray, mask: np.ndarray) -> Curve:
    """F of the map at every threshold, beta squared 0.3; 0 where it hits nothing."""
    hits, false_hits = _hits_at_levels(grey, mask)
    own, other = _hits_at_own_level(grey, mask)
    area = int(np.count_nonzero(mask))
    return Curve(_f(hits, false_hits, area), float(_f(own, other, area)[0]))


def enhanced_alignment(grey: np.ndarray, mask: np.ndarray) -> Curve:
    """E of the map at every threshold."""
    hits, false_hits = _hits_at_levels(grey, mask)
    own, other = _hits_at_own_level(grey, mask)
    area = int(np.count_nonzero(mask))
    return Curve(
        _alignment(hits, false_hits, area, mask.size),
        float(_alignment(own, other, area, mask.size)[0]),
    )


def structure(grey: np.ndarray, mask: np.ndarray) -> float:
    """S of the map: how alike objects and regions are, half and half."""
    share = mask.mean()
    if share == 0:
        return float(1 - grey.mean())
    if share == 1:
        return float(grey.mean())
    inside = _likeness(grey[mask])
    outside = _likeness(1 - grey[~mask])
    objects = share * inside + (1 - share) * outside
    regions = _quarters(grey, mask)
    return float(max(0.0, OBJECT_SHARE * objects + (1 - OBJECT_SHARE) * regions))


def _hits_at_levels(grey: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of at least a level, inside and outside the mask, int64 [256], level 255 first."""
    levels = (grey * (LEVELS - 1)).astype(np.uint8)
    inside = np.bincount(levels[mask], minlength=LEVELS)
    outside = np.bincount(levels[~mask], minlength=LEVELS)
    return np.cumsum(inside[::-1]), np.cumsum(outside[::-1])


def _hits_at_own_level(grey: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    chosen = grey >= min(2 * grey.mean(), 1.0)
    inside = np.count_nonzero(chosen & mask)
    return np.array([inside]), np.array([np.count_nonzero(chosen) - inside])


def _f(hits: np.ndarray, false_hits: np.ndarray, area: int) -> np.ndarray:
    precision = hits / np.maximum(hits + false_hits, 1)
    recall = hits / max(area, 1)
    weighted = (1 + BETA_SQUARED) * precision * recall
    below = BETA_SQUARED * precision + recall
    return np.divide(weighted, below, out=np.zeros(len(hits)), where=weighted > 0)


def _alignment(hits: np.ndarray, false_hits: np.ndarray, area: int, pixels: int) -> np.ndarray:
    chosen, others = hits + false_hits, max(pixels - 1, 1)
    if area == 0:
        return (pixels - chosen) / others
    if area == pixels:
        return chosen / others
    missed = area - hits
    numbers = {(1, 1): hits, (1, 0): false_hits, (0, 1): missed}
    numbers[0, 0] = pixels - chosen - missed
    total = np.zeros(len(hits))
    for (found, wanted), number in numbers.items():
        from_map, from_mask = found - chosen / pixels, wanted - area / pixels
        alike = 2 * from_map * from_mask / (from_map**2 + from_mask**2 + TINY)
        total += number * (1 + alike) ** 2 / 4
    return total / others


def _likeness(values: np.ndarray) -> float:
    """How near values come to 1, and how little they spread."""
    middle = values.mean()
    spread = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * middle / (middle**2 + 1 + spread + TINY)


def _quarters(grey: np.ndarray, mask: np.ndarray) -> float:
    """Likeness of the four blocks about the mask's centre, weighted by their areas."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    row, column = int(np.round(rows.mean())) + 1, int(np.round(columns.mean())) + 1
    total, left = 0.0, 1.0
    blocks = [
        (slice(0, row), slice(0, column)),
        (slice(0, row), slice(column, width)),
        (slice(row, height), slice(0, column)),
        (slice(row, height), slice(column, width)),
    ]
    for place, block in enumerate(blocks):
        piece = mask[block]
        weight = left if place == len(blocks) - 1 else piece.size / mask.size
        left -= weight
        if piece.size:
            total += weight * _block_likeness(grey[block], piece)
    return total


def _block_likeness(grey: np.ndarray, mask: np.ndarray) -> float:
    middle, wanted = grey.mean(), mask.mean()
    from_middle, from_wanted = grey - middle, mask - wanted
    number = max(mask.size - 1, 1)
    spread = ((from_middle**2).sum() + (from_wanted**2).sum()) / number
    common = (from_middle * from_wanted).sum() / number
    above = 4 * middle * wanted * common
    below = (middle**2 + wanted**2) * spread
    if above == 0:
        return float(below == 0)
    return above / (below + TINY)
