"""Interactive segmentation metrics: number of clicks and mean IoU after k clicks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
    table = np.array(ious, float).reshape(-1, clicks)
    scores: dict[str, float] = {}
    for level in IOU_LEVELS:
        scores[f"NoC@{100 * level:.0f}"] = _mean(number_of_clicks(table, level))
    for level in IOU_LEVELS:
        scores[f"failed@{100 * level:.0f}"] = 100 * _mean(~(table >= level).any(1))
    for count in [k for k in REPORTED_CLICKS if k < clicks] + [clicks]:
        scores[f"mIoU@{count}"] = 100 * _mean(table[:, count - 1])
    scores["objects"] = len(table)
    return scores


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
