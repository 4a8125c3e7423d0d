"""Few-shot segmentation metrics: mIoU and FB-IoU over episodes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np


class EpisodeCounts(NamedTuple):
    """Pixel counts of one episode.

    Attributes:
        class_id: class of the object.
        intersection, union: of the object in prediction and ground truth.
        background_intersection, background_union: of the background.
    """

    class_id: int
    intersection: int
    union: int
    background_intersection: int
    background_union: int


def count_pixels(class_id: int, mask: np.ndarray, target: np.ndarray) -> EpisodeCounts:
    """Count intersections and unions of a predicted and a ground-truth mask, each [H, W] bool."""
    intersection, union = int((mask & target).sum()), int((mask | target).sum())
    return EpisodeCounts(class_id, intersection, union, mask.size - union, mask.size - intersection)


def few_shot_scores(episodes: Iterable[EpisodeCounts]) -> dict[str, float]:
    """Compute the metrics of a set of episodes in percent.

    Returns:
        "mIoU": pixels are summed over the episodes of a class, IoUs are averaged over the classes
        that had any. "FB-IoU": pixels are summed over all episodes, the IoUs of foreground and
        background are averaged. "IoU/episode": mean of the episodes' IoUs. "classes" and
        "episodes": their numbers. Without episodes the first three are NaN.
    """
    table = np.array([tuple(counts) for counts in episodes], float)
    table = table.reshape(-1, len(EpisodeCounts._fields))
    classes = np.unique(table[:, 0])
    sums_by_class = [table[table[:, 0] == class_id].sum(0) for class_id in classes]
    total = table.sum(0)
    return {
        "mIoU": _mean_percent([_iou(sums[1], sums[2]) for sums in sums_by_class]),
        "FB-IoU": _mean_percent([_iou(total[1], total[2]), _iou(total[3], total[4])])
        if len(table)
        else float("nan"),
        "IoU/episode": _mean_percent([_iou(row[1], row[2]) for row in table]),
        "classes": len(classes),
        "episodes": len(table),
    }


def _iou(intersection: float, union: float) -> float:
    """Return the IoU; 1 if both masks are empty."""
    return intersection / union if union else 1.0


def _mean_percent(values: list[float]) -> float:
    return 100 * float(np.mean(values)) if values else float("nan")
