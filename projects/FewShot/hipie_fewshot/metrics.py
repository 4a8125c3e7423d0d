"""Few-shot segmentation metrics: mIoU and FB-IoU over episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from hipie.evaluation.metrics.averages import from_fixed_point, percent, ratio, to_fixed_point


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


class FewShotCounts:
    """Sums over episodes, all of them integers.

    Attributes:
        by_class: of each class the sums of object intersection and union, background intersection
            and union, the sum of the IoUs by `to_fixed_point`, and the number of episodes.
    """

    def __init__(self, by_class: Mapping[str, Sequence[int]] = MappingProxyType({})) -> None:
        self.by_class = {name: list(sums) for name, sums in by_class.items()}

    def add(self, counts: EpisodeCounts) -> None:
        """Count an episode."""
        class_id, *pixels = counts
        iou = to_fixed_point(_iou(counts.intersection, counts.union))
        sums = self.by_class.setdefault(str(class_id), [0] * 6)
        sums[:] = [a + int(b) for a, b in zip(sums, [*pixels, iou, 1], strict=True)]

    def scores(self) -> dict[str, float]:
        """Compute the scores of `few_shot_scores`."""
        rows = list(self.by_class.values())
        total = [sum(column) for column in zip(*rows, strict=True)] or [0] * 6
        foreground, background = _iou(total[0], total[1]), _iou(total[2], total[3])
        return {
            "mIoU": percent(_iou(row[0], row[1]) for row in rows),
            "FB-IoU": percent([foreground, background] if rows else []),
            "IoU/episode": ratio(from_fixed_point(total[4]), total[5]),
            "classes": len(rows),
            "episodes": total[5],
        }


def few_shot_scores(episodes: Iterable[EpisodeCounts]) -> dict[str, float]:
    """Compute the metrics of a set of episodes in percent, independently of their order.

    Returns:
        "mIoU": pixels are summed over the episodes of a class, IoUs are averaged over the classes
        that had any. "FB-IoU": pixels are summed over all episodes, the IoUs of foreground and
        background are averaged. "IoU/episode": mean of the episodes' IoUs. "classes" and
        "episodes": their numbers. Without episodes the first three are NaN.
    """
    counts = FewShotCounts()
    for episode in episodes:
        counts.add(episode)
    return counts.scores()


def _iou(intersection: float, union: float) -> float:
    """Return the IoU; 1 if both masks are empty."""
    return intersection / union if union else 1.0
