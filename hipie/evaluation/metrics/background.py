"""Semantic segmentation with background: the class of pixels that no named class claims."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hipie.errors import InputError
from hipie.evaluation.metrics.part_iou import class_ious, mean_iou
from hipie.structures import SemanticLabels

NUM_BINS = 40


class BackgroundThresholds:
    """Pixels by truth, best named class and its score, for the mIoU of every threshold.

    A pixel whose score is below the threshold is predicted as background. Background counts as a
    class, as in the mean IoU of Pascal VOC (Everingham et al., IJCV 2015).

    Args:
        num_classes: K, background included.
        background: index of the background class.
        threshold: the one by which labels are predicted.

    Raises:
        InputError: if the threshold is negative.
    """

    def __init__(self, num_classes: int, background: int, threshold: float) -> None:
        if not threshold >= 0:
            raise InputError(
                f"MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD must not be negative: {threshold}"
            )
        self.num_classes, self.background, self.threshold = num_classes, background, threshold
        self._named = np.delete(np.arange(num_classes), background)
        self.reset()

    def reset(self) -> None:
        """Discard the pixels counted so far."""
        self.counts = np.zeros((NUM_BINS, self.num_classes, self.num_classes), dtype=np.int64)

    def labels(self, named: NDArray[Any], scores: NDArray[Any]) -> NDArray[Any]:
        """Predict the class of every pixel.

        Args:
            named: [H, W] best class, counted without background.
            scores: [H, W] its score.

        Returns:
            [H, W] int64, counted with background.
        """
        labels: NDArray[Any] = self._named[named]
        return np.where(scores < self.threshold, self.background, labels)

    def count(self, named: NDArray[Any], scores: NDArray[Any], truth: NDArray[Any]) -> None:
        """Count the pixels of an image.

        Args:
            named: [H, W] best class, counted without background.
            scores: [H, W] its score.
            truth: [H, W] class; values outside 0..K - 1 are ignored.
        """
        valid = (truth >= 0) & (truth < self.num_classes)
        bins = np.clip(np.floor(scores[valid] * NUM_BINS), 0, NUM_BINS - 1).astype(np.int64)
        index = (bins * self.num_classes + truth[valid]) * self.num_classes
        index += self._named[named[valid]]
        self.counts += np.bincount(index, minlength=self.counts.size).reshape(self.counts.shape)

    def results(self, counts: NDArray[Any]) -> dict[str, float]:
        """Return the threshold, and the best one of those that were counted with its mean IoU.

        The best threshold of a data set may be set for others; the mean IoU that goes with it was
        chosen on the data set itself.

        Args:
            counts: of all processes.
        """
        # The lowest of equally good thresholds.
        best, miou = max(threshold_curve(counts, self.background), key=lambda pair: pair[1])
        return {
            "background_threshold": self.threshold,
            "best_background_threshold": best,
            "mIoU_best_background_threshold": miou,
        }


def best_named_class(scores: Tensor | SemanticLabels) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the best class of every pixel and its score, both [H, W].

    Args:
        scores: `SemanticLabels`, or the scores [K, H, W] of all classes.
    """
    if isinstance(scores, SemanticLabels):
        return scores.labels.cpu().numpy(), scores.scores.float().cpu().numpy()
    best, labels = scores.float().max(dim=0)
    return labels.cpu().numpy(), best.cpu().numpy()


def threshold_curve(counts: NDArray[Any], background: int) -> list[tuple[float, float]]:
    """Compute the mean IoU, in percent, of every threshold.

    Args:
        counts: int64 [bins, K, K], pixels by score (equal parts of 0..1), truth, and best class of
            those that are not background.
        background: index of the background class.

    Returns:
        Pairs (threshold, mean IoU) by rising threshold.
    """
    below = np.concatenate([np.zeros_like(counts[:1]), counts.cumsum(axis=0)])
    curve = []
    for index, background_pixels in enumerate(below[:-1]):
        matrix = below[-1] - background_pixels
        matrix[:, background] += background_pixels.sum(axis=1)
        curve.append((index / len(counts), mean_iou(class_ious(matrix))))
    return curve
