"""PartPQ counts of one image: matched segments and the IoU of their parts.

de Geus et al., "Part-aware Panoptic Segmentation", CVPR 2021. A predicted and a ground-truth
segment of one class match if their IoU is above 0.5. A match of a class with parts counts with the
mean IoU of its parts (and of "no part"), a match of another class with its own IoU. PartPQ of a
class is the sum of these over the number of matches plus half of the unmatched segments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.data.datasets.panoptic_parts import NO_OBJECT, PanopticParts, PartClass

UNKNOWN_PART = 255
"""A predicted part that the class does not have: a miss, without an IoU of its own."""
MATCH_IOU = 0.5
MAX_IGNORED_FRACTION = 0.5
"""Unmatched predictions with a larger fraction of ignored pixels are not false positives."""


@dataclass(frozen=True)
class ClassCounts:
    """Counts of one class.

    Attributes:
        ious: IoU of every match.
        false_positives: predicted segments without a match.
        false_negatives: ground-truth segments without a match.
    """

    ious: tuple[float, ...] = ()
    false_positives: int = 0
    false_negatives: int = 0


@dataclass(frozen=True)
class PredictedSegment:
    """A predicted segment.

    Attributes:
        mask: [H, W] bool.
        parts: [H, W] integers, part of each pixel.
    """

    mask: NDArray[Any]
    parts: NDArray[Any]


def count_image(
    truth: PanopticParts,
    predictions: Mapping[int, Sequence[PredictedSegment]],
    classes: Sequence[PartClass],
) -> list[ClassCounts]:
    """Match the segments of one image.

    Pixels of no class and of things without an object number are ignored; so are segments of a
    class with parts on which no part is labelled.

    Args:
        truth: the labels.
        predictions: segments by the class's position in `classes`; they do not overlap.
        classes: evaluated classes.

    Returns:
        One entry a class.
    """
    class_numbers = [number for part_class in classes for number in part_class.numbers]
    void = ~np.isin(truth.classes, class_numbers)
    return [
        _count_class(truth, predictions.get(index, ()), part_class, void)
        for index, part_class in enumerate(classes)
    ]


def _count_class(
    truth: PanopticParts,
    predictions: Iterable[PredictedSegment],
    part_class: PartClass,
    void: NDArray[Any],
) -> ClassCounts:
    segments, crowd = _true_segments(truth, part_class)
    ignored = void | crowd
    ious: list[float] = []
    unmatched = [segment for segment in predictions if segment.mask.any()]
    for mask, parts in segments:
        match = None
        for index, segment in enumerate(unmatched):
            iou = _segment_iou(mask, segment.mask, void)
            if iou > MATCH_IOU:
                match = index, iou
                break
        if match is None:
            continue
        segment = unmatched.pop(match[0])
        evaluated = ~(ignored | (mask & (parts == 0)))
        ious.append(_part_iou(parts, segment, evaluated) if part_class.has_parts else match[1])
    false_positives = 0
    for segment in unmatched:
        inside = np.count_nonzero(segment.mask & ignored)
        false_positives += inside / np.count_nonzero(segment.mask) <= MAX_IGNORED_FRACTION
    return ClassCounts(tuple(ious), int(false_positives), len(segments) - len(ious))


def _true_segments(
    truth: PanopticParts, part_class: PartClass
) -> tuple[list[tuple[NDArray[Any], NDArray[Any]]], NDArray[Any]]:
    """Return masks and parts of a class's segments, and its pixels that are ignored."""
    table = np.zeros(
        max([0, *part_class.parts, int(truth.parts.max(initial=0))]) + 1, dtype=np.int64
    )
    for number, part in part_class.parts.items():
        table[number] = part
    segments = []
    crowd = np.zeros(truth.classes.shape, dtype=bool)
    for number in part_class.numbers:
        of_class = truth.classes == number
        for object_id in np.unique(truth.objects[of_class]):
            mask = of_class & (truth.objects == object_id)
            parts = np.where(mask, table[truth.parts], 0)
            unnumbered = part_class.thing and object_id == NO_OBJECT
            if unnumbered or (part_class.has_parts and not parts.any()):
                crowd |= mask
            else:
                segments.append((mask, parts))
    return segments, crowd


def _segment_iou(truth: NDArray[Any], predicted: NDArray[Any], void: NDArray[Any]) -> float:
    intersection = np.count_nonzero(truth & predicted)
    union = np.count_nonzero(truth | predicted) - np.count_nonzero(void & predicted)
    return intersection / union if union > 0 else 0.0


def _part_iou(truth: NDArray[Any], segment: PredictedSegment, evaluated: NDArray[Any]) -> float:
    """Compute the mean IoU of the parts in truth or prediction, "no part" among them."""
    true_parts = truth[evaluated]
    predicted_parts = np.where(segment.mask, segment.parts, 0)[evaluated]
    ious = [
        np.count_nonzero((true_parts == part) & (predicted_parts == part))
        / np.count_nonzero((true_parts == part) | (predicted_parts == part))
        for part in np.union1d(true_parts, predicted_parts)
        if part != UNKNOWN_PART
    ]
    return float(np.mean(ious)) if ious else 0.0
