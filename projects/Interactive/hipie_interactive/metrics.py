"""Interactive segmentation metrics: number of clicks and mean IoU after k clicks."""

from __future__ import annotations

from collections.abc import Sequence
from math import nan

import numpy as np

from hipie.evaluation.metrics.averages import from_fixed_point, ratio, to_fixed_point

IOU_LEVELS = (0.85, 0.90)
# Numbers of clicks after which the mean IoU is reported, up to the number of clicks.
REPORTED_CLICKS = (1, 2, 3, 5, 10, 15, 20)


def number_of_clicks(ious: np.ndarray, level: float) -> np.ndarray:
    """Count the clicks until each object's IoU first reaches a level.

    Args:
        ious: [N, K] after each of K clicks.
        level: an IoU.

    Returns:
        [N] int; K for objects that never reach it.
    """
    reached = ious >= level
    return np.where(reached.any(1), reached.argmax(1) + 1, ious.shape[1])


class ClickCounts:
    """Sums over objects, all of them integers.

    Attributes:
        objects: number of objects.
        clicks: sums of `number_of_clicks` at each of `IOU_LEVELS`.
        failed: objects that never reach each of `IOU_LEVELS`.
        ious: sums of the IoUs after each click, by `to_fixed_point`.
    """

    def __init__(self, clicks: int, integers: Sequence[int] = ()) -> None:
        levels = len(IOU_LEVELS)
        values = list(integers) or [0] * (1 + 2 * levels + clicks)
        self.objects, self.clicks = values[0], values[1 : 1 + levels]
        self.failed, self.ious = values[1 + levels : 1 + 2 * levels], values[1 + 2 * levels :]

    def add(self, ious: Sequence[float]) -> None:
        """Count an object by its IoUs after each click."""
        row = np.array([ious], float)
        self.objects += 1
        for index, level in enumerate(IOU_LEVELS):
            self.clicks[index] += int(number_of_clicks(row, level)[0])
            self.failed[index] += int(not (row >= level).any())
        self.ious = [a + to_fixed_point(b) for a, b in zip(self.ious, ious, strict=True)]

    def integers(self) -> list[int]:
        """Return all counts as a list, an argument of the constructor."""
        return [self.objects, *self.clicks, *self.failed, *self.ious]

    def scores(self) -> dict[str, float]:
        """Compute the scores of `interactive_scores`."""
        scores: dict[str, float] = {}
        for level, clicks in zip(IOU_LEVELS, self.clicks, strict=True):
            scores[f"NoC@{100 * level:.0f}"] = clicks / self.objects if self.objects else nan
        for level, failed in zip(IOU_LEVELS, self.failed, strict=True):
            scores[f"failed@{100 * level:.0f}"] = ratio(failed, self.objects)
        last = len(self.ious)
        for count in [k for k in REPORTED_CLICKS if k < last] + [last]:
            iou = from_fixed_point(self.ious[count - 1])
            scores[f"mIoU@{count}"] = ratio(iou, self.objects)
        scores["objects"] = self.objects
        return scores


def interactive_scores(ious: Sequence[Sequence[float]], clicks: int) -> dict[str, float]:
    """Compute NoC, failures and mean IoU over objects.

    Args:
        ious: of every object, after each click.
        clicks: K, number of clicks on every object.

    Returns:
        "NoC@85", "NoC@90": mean number of clicks; an object that never gets there counts K.
        "failed@85", "failed@90": percent of the objects that never do. "mIoU@k": percent, after k
        clicks. "objects". All but the last are NaN without objects.
    """
    counts = ClickCounts(clicks)
    for row in ious:
        counts.add(row)
    return counts.scores()
