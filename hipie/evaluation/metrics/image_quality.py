"""How well the prediction of one image fits its annotation, in 0..1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

MATCH_IOU = 0.5
"""IoU above which a predicted segment may be that of an annotated one, as in panoptic quality."""


class LabelledMask(Protocol):
    """A mask with the name of its class; see `hipie.segmentation.Segment`."""

    @property
    def label(self) -> str:
        """Class name."""

    @property
    def mask(self) -> NDArray[Any]:
        """[H, W] bool."""

    @property
    def score(self) -> float:
        """Confidence in 0..1."""


def segment_quality(predicted: Sequence[LabelledMask], truth: Sequence[LabelledMask]) -> float:
    """Return the panoptic quality of one image, over all of its classes together.

    sum(IoU of matches) / (matches + false positives / 2 + false negatives / 2), as Kirillov et al.
    (CVPR 2019) define it for a data set. Predicted segments are matched in the order of their
    scores, since instances may overlap.

    Args:
        predicted: the segments of the prediction.
        truth: those of the annotation.

    Returns:
        1 if there is neither a prediction nor an annotation.
    """
    unmatched = list(range(len(truth)))
    total, matches = 0.0, 0
    for segment in sorted(predicted, key=lambda one: -one.score):
        ious = {
            row: mask_iou(segment.mask, truth[row].mask)
            for row in unmatched
            if truth[row].label == segment.label
        }
        best = max(ious, key=lambda row: ious[row], default=None)
        if best is not None and ious[best] > MATCH_IOU:
            unmatched.remove(best)
            total, matches = total + ious[best], matches + 1
    faults = len(predicted) - matches + len(unmatched)
    return total / (matches + faults / 2) if matches + faults else 1.0


def label_quality(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the mean IoU of the classes that an image or its prediction has.

    Args:
        predicted: int [H, W], class of each pixel.
        truth: likewise; negative values are not compared.

    Returns:
        1 if no pixel is compared.
    """
    valid = truth >= 0
    predicted, truth = predicted[valid], truth[valid]
    classes = np.union1d(predicted, truth)
    ious = [mask_iou(predicted == index, truth == index) for index in classes]
    return float(np.mean(ious)) if ious else 1.0


def mask_iou(predicted: NDArray[Any], truth: NDArray[Any]) -> float:
    """Return the IoU of two bool masks of one shape; 1 if both are empty."""
    union = int(np.count_nonzero(predicted | truth))
    return int(np.count_nonzero(predicted & truth)) / union if union else 1.0
