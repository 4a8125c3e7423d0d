"""How many clicks a mask costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

GOOD_ENOUGH = (0.85, 0.90)
# Numbers of clicks after which the mean IoU is shown, as far as the user clicked that often.
LOOKED_AT = (1, 2, 3, 5, 10, 15, 20)


def clicks_needed(ious: np.ndarray, good_enough: float) -> np.ndarray:
    """Clicks until an object's IoU is good enough for the first time.

    Args:
        ious: [N, K] after each of K clicks.
        good_enough: an IoU.

    Returns:
        [N] int; K for those that never are.
    """
    reached = ious >= good_enough
    return np.where(reached.any(1), reached.argmax(1) + 1, ious.shape[1])


def interactive_scores(ious: Sequence[Sequence[float]], clicks: int) -> dict[str, float]:
    """NoC, failures and mean IoU over objects.

    Args:
        ious: of every object, after each click.
        clicks: K of every object.

    Returns:
        "NoC@85", "NoC@90": mean number of clicks; an object that never gets there counts K.
        "failed@85", "failed@90": percent of the objects that never do. "mIoU@k": percent, after k
        clicks. "objects". All but the last are NaN without objects.
    """
    table = np.array(ious, float).reshape(-1, clicks)
    scores: dict[str, float] = {}
    for level in GOOD_ENOUGH:
        needed = clicks_needed(table, level)
        scores[f"NoC@{100 * level:.0f}"] = _mean(needed)
    for level in GOOD_ENOUGH:
        scores[f"failed@{100 * level:.0f}"] = 100 * _mean(~(table >= level).any(1))
    for number in [k for k in LOOKED_AT if k < clicks] + [clicks]:
        scores[f"mIoU@{number}"] = 100 * _mean(table[:, number - 1])
    scores["objects"] = len(table)
    return scores


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
