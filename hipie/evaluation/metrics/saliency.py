"""Saliency measures of a grey map against a mask: S, E, F and MAE.

Definitions as in `pysodmetrics`, with which the tests compare. `grey` is float64 [H, W] in 0..1,
`mask` bool [H, W]; both have at least one pixel.

S-measure: Fan et al., ICCV 2017. E-measure: Fan et al., IJCAI 2018. F-measure: Achanta et al.,
CVPR 2009.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

EPSILON = np.spacing(1.0)
BETA_SQUARED = 0.3
OBJECT_WEIGHT = 0.5
LEVELS = 256


@dataclass(frozen=True)
class ThresholdCurve:
    """A measure of thresholded maps.

    Attributes:
        at_levels: [256] at the thresholds 255, 254, ... 0.
        adaptive: at twice the map's mean.
    """

    at_levels: NDArray[Any]
    adaptive: float


def normalize_map(grey: NDArray[Any]) -> NDArray[Any]:
    """Scale a map, uint8 [H, W], to the range 0..1; a constant map is divided by 255."""
    values: NDArray[Any] = grey / 255.0
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else values


def mean_absolute_error(grey: NDArray[Any], mask: NDArray[Any]) -> float:
    """Compute the mean absolute error of a map."""
    return float(np.abs(grey - mask).mean())


def f_measure(grey: NDArray[Any], mask: NDArray[Any]) -> ThresholdCurve:
    """Compute the F-measure with beta squared 0.3; 0 without a true positive."""
    area = int(np.count_nonzero(mask))
    at_levels = _f_scores(*_count_at_levels(grey, mask), area)
    adaptive = _f_scores(*_count_at_adaptive_threshold(grey, mask), area)
    return ThresholdCurve(at_levels, float(adaptive[0]))


def e_measure(grey: NDArray[Any], mask: NDArray[Any]) -> ThresholdCurve:
    """Compute the enhanced-alignment measure."""
    area = int(np.count_nonzero(mask))
    at_levels = _e_scores(*_count_at_levels(grey, mask), area, mask.size)
    adaptive = _e_scores(*_count_at_adaptive_threshold(grey, mask), area, mask.size)
    return ThresholdCurve(at_levels, float(adaptive[0]))


def s_measure(grey: NDArray[Any], mask: NDArray[Any]) -> float:
    """Compute the structure measure: object-aware and region-aware similarity, half each."""
    foreground = mask.mean()
    if foreground == 0:
        return float(1 - grey.mean())
    if foreground == 1:
        return float(grey.mean())
    objects = foreground * _object_similarity(grey[mask]) + (1 - foreground) * _object_similarity(
        1 - grey[~mask]
    )
    regions = _region_similarity(grey, mask)
    return float(max(0.0, OBJECT_WEIGHT * objects + (1 - OBJECT_WEIGHT) * regions))


def _count_at_levels(grey: NDArray[Any], mask: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Count true and false positives at each threshold, int64 [256], level 255 first."""
    levels = (grey * (LEVELS - 1)).astype(np.uint8)
    inside = np.bincount(levels[mask], minlength=LEVELS)
    outside = np.bincount(levels[~mask], minlength=LEVELS)
    return np.cumsum(inside[::-1]), np.cumsum(outside[::-1])


def _count_at_adaptive_threshold(
    grey: NDArray[Any], mask: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Count true and false positives at twice the map's mean, int64 [1]."""
    positive = grey >= min(2 * grey.mean(), 1.0)
    true_positives = np.count_nonzero(positive & mask)
    return np.array([true_positives]), np.array([np.count_nonzero(positive) - true_positives])


def _f_scores(
    true_positives: NDArray[Any], false_positives: NDArray[Any], area: int
) -> NDArray[Any]:
    precision = true_positives / np.maximum(true_positives + false_positives, 1)
    recall = true_positives / max(area, 1)
    numerator = (1 + BETA_SQUARED) * precision * recall
    denominator = BETA_SQUARED * precision + recall
    return np.divide(numerator, denominator, out=np.zeros(len(true_positives)), where=numerator > 0)


def _e_scores(
    true_positives: NDArray[Any], false_positives: NDArray[Any], area: int, pixels: int
) -> NDArray[Any]:
    positive, normalizer = true_positives + false_positives, max(pixels - 1, 1)
    if area == 0:
        return np.asarray((pixels - positive) / normalizer)
    if area == pixels:
        return np.asarray(positive / normalizer)
    false_negatives = area - true_positives
    # Number of pixels by (value of the thresholded map, value of the mask).
    counts = {
        (1, 1): true_positives,
        (1, 0): false_positives,
        (0, 1): false_negatives,
        (0, 0): pixels - positive - false_negatives,
    }
    total = np.zeros(len(true_positives))
    for (map_value, mask_value), count in counts.items():
        map_bias, mask_bias = map_value - positive / pixels, mask_value - area / pixels
        alignment = 2 * map_bias * mask_bias / (map_bias**2 + mask_bias**2 + EPSILON)
        total += count * (1 + alignment) ** 2 / 4
    return total / normalizer


def _object_similarity(values: NDArray[Any]) -> float:
    """Compute the similarity of a region's values to 1, which their variation lowers."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + EPSILON))


def _region_similarity(grey: NDArray[Any], mask: NDArray[Any]) -> float:
    """Compute the SSIM of the four blocks about the mask's centroid, weighted by their areas."""
    height, width = mask.shape
    rows, columns = np.nonzero(mask)
    row, column = int(np.round(rows.mean())) + 1, int(np.round(columns.mean())) + 1
    blocks = [
        (slice(0, row), slice(0, column)),
        (slice(0, row), slice(column, width)),
        (slice(row, height), slice(0, column)),
        (slice(row, height), slice(column, width)),
    ]
    total, remaining = 0.0, 1.0
    for index, block in enumerate(blocks):
        mask_block = mask[block]
        weight = remaining if index == len(blocks) - 1 else mask_block.size / mask.size
        remaining -= weight
        if mask_block.size:
            total += weight * _ssim(grey[block], mask_block)
    return total


def _ssim(grey: NDArray[Any], mask: NDArray[Any]) -> float:
    grey_mean, mask_mean = grey.mean(), mask.mean()
    grey_offset, mask_offset = grey - grey_mean, mask - mask_mean
    normalizer = max(mask.size - 1, 1)
    variance = ((grey_offset**2).sum() + (mask_offset**2).sum()) / normalizer
    covariance = (grey_offset * mask_offset).sum() / normalizer
    numerator = 4 * grey_mean * mask_mean * covariance
    denominator = (grey_mean**2 + mask_mean**2) * variance
    if numerator == 0:
        return float(denominator == 0)
    return float(numerator / (denominator + EPSILON))
