"""mIoU and FB-IoU over episodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class Episode(NamedTuple):
    """Pixels of one episode.

    Attributes:
        class_id: what was looked for.
        both, either: of the object, in the answer and the truth.
        both_outside, either_outside: likewise of the rest.
    """

    class_id: int
    both: int
    either: int
    both_outside: int
    either_outside: int


def compare(class_id: int, mask: np.ndarray, target: np.ndarray) -> Episode:
    """Count the pixels of an answer [H, W] bool and the truth."""
    both, either = int((mask & target).sum()), int((mask | target).sum())
    return Episode(class_id, both, either, mask.size - either, mask.size - both)


def few_shot_scores(episodes: Iterable[Episode]) -> dict[str, float]:
    """Percentages over episodes.

    Returns:
        "mIoU": pixels are summed over the episodes of a class, IoUs are averaged over the classes
        that had any. "FB-IoU": pixels are summed over all, the IoUs of objects and of the rest are
        averaged. "IoU/episode": the mean of each one's own. "classes" and "episodes": how many.
        Without episodes the first three are NaN.
    """
    table = np.array([tuple(one) for one in episodes], float).reshape(-1, len(Episode._fields))
    classes = np.unique(table[:, 0])
    of_class = [table[table[:, 0] == number].sum(0) for number in classes]
    total = table.sum(0)
    return {
        "mIoU": _percent([_ratio(one[1], one[2]) for one in of_class]),
        "FB-IoU": _percent([_ratio(total[1], total[2]), _ratio(total[3], total[4])])
        if len(table)
        else float("nan"),
        "IoU/episode": _percent([_ratio(one[1], one[2]) for one in table]),
        "classes": len(classes),
        "episodes": len(table),
    }


def _ratio(part: float, whole: float) -> float:
    """1 where there is nothing, and nothing was found."""
    return part / whole if whole else 1.0


def _percent(values: list[float]) -> float:
    return 100 * float(np.mean(values)) if values else float("nan")
