"""Intersections and unions of masks, and the averages that referring segmentation reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hipie.evaluation.metrics.averages import percent

PRECISION_AT = (0.5, 0.6, 0.7, 0.8, 0.9)


class Overlap(NamedTuple):
    """Pixels in both masks, in either, and in the answer alone or not."""

    both: int
    either: int
    answered: int

    @property
    def iou(self) -> float:
        """Both / either; 0 where both masks are empty."""
        return self.both / self.either if self.either else 0.0


def overlap(answer: np.ndarray, target: np.ndarray) -> Overlap:
    """Overlap of two bool masks [H, W]."""
    both = int(np.count_nonzero(answer & target))
    answered = int(np.count_nonzero(answer))
    return Overlap(both, answered + int(np.count_nonzero(target)) - both, answered)


def referring_scores(overlaps: Sequence[Overlap]) -> dict[str, float]:
    """oIoU, mIoU and P@X in percent, as LAVT (Yang et al., CVPR 2022) defines them.

    oIoU is the sum of all intersections over the sum of all unions, mIoU the mean of I/U, P@X the
    share of samples with I/U of at least X. NaN without samples; oIoU is 0 if all masks are empty.
    The same to the last bit for any order.

    Args:
        overlaps: one an expression.
    """
    if not overlaps:
        return dict.fromkeys(["oIoU", "mIoU", *(f"P@{x}" for x in PRECISION_AT)], float("nan"))
    ious = [one.iou for one in overlaps]
    either = sum(one.either for one in overlaps)
    scores = {
        "oIoU": 100.0 * sum(one.both for one in overlaps) / max(either, 1),
        "mIoU": percent(ious),
    }
    for threshold in PRECISION_AT:
        scores[f"P@{threshold}"] = percent(iou >= threshold for iou in ious)
    return scores
