"""Intersections and unions of masks, and the averages that referring segmentation reports."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


def overlap(predicted: np.ndarray, target: np.ndarray) -> tuple[int, int]:
    """Pixels in both masks, and pixels in either; bool [H, W] each."""
    both = int(np.count_nonzero(predicted & target))
    return both, int(np.count_nonzero(predicted)) + int(np.count_nonzero(target)) - both


def iou(intersections: np.ndarray, unions: np.ndarray) -> np.ndarray:
    """I / U of every pair, 0 where both masks are empty; float64, same shape."""
    unions = np.asarray(unions, dtype=np.float64)
    return np.divide(intersections, unions, out=np.zeros_like(unions), where=unions > 0)


def referring_scores(intersections: Sequence[int], unions: Sequence[int]) -> dict[str, float]:
    """oIoU, mIoU and P@X in percent, as LAVT (Yang et al., CVPR 2022) defines them.

    oIoU is the sum of all intersections over the sum of all unions, mIoU the mean of I/U, P@X the
    share of samples with I/U of at least X. NaN without samples; oIoU is 0 if all masks are empty.

    Args:
        intersections, unions: pixels, one of each a sentence.
    """
    if len(intersections) == 0:
        return dict.fromkeys(["oIoU", "mIoU", *(f"P@{x}" for x in PRECISION_AT)], float("nan"))
    each = iou(np.asarray(intersections), np.asarray(unions))
    scores = {
        "oIoU": 100.0 * sum(intersections) / max(sum(unions), 1),
        "mIoU": 100.0 * float(each.mean()),
    }
    for threshold in PRECISION_AT:
        scores[f"P@{threshold}"] = 100.0 * float((each >= threshold).mean())
    return scores
