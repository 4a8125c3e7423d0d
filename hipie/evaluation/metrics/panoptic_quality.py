"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hipie.evaluation.metrics.averages import to_fixed_point

VOID = 0
MATCH_IOU = 0.5
MAX_IGNORED = 0.5
"""Share of an unmatched prediction in void and crowds above which it is not counted."""


@dataclass
class SegmentCounts:
    """Matches of the segments of one class.

    Attributes:
        matches: pairs of a prediction and an object with an IoU above 0.5.
        iou: sum of their IoUs, by `to_fixed_point`.
        false_positives: predictions without an object.
        false_negatives: objects without a prediction.
    """

    matches: int = 0
    iou: int = 0
    false_positives: int = 0
    false_negatives: int = 0


def count_segments(
    truth: NDArray[Any],
    truth_segments: Iterable[Mapping[str, Any]],
    predicted: NDArray[Any],
    predicted_segments: Iterable[Mapping[str, Any]],
) -> dict[int, SegmentCounts]:
    """Match the segments of an image, as COCO's panopticapi does.

    The area of a segment is counted from its pixels. Pixels of ids that are not listed are void,
    segments without a pixel are left out. Crowds are neither matched nor missed.

    Args:
        truth: integers [H, W], ids of the annotated segments, 0 = void.
        truth_segments: with `id`, `category_id` and `iscrowd` (0 by default).
        predicted: integers [H, W], ids of the predicted segments, 0 = void.
        predicted_segments: with `id` and `category_id`.

    Returns:
        Counts by class; classes without a segment have none.
    """
    objects = {int(segment["id"]): segment for segment in truth_segments}
    predictions = {int(segment["id"]): segment for segment in predicted_segments}
    overlaps = _overlaps(_keep(truth, objects), _keep(predicted, predictions))
    object_areas: dict[int, int] = defaultdict(int)
    prediction_areas: dict[int, int] = defaultdict(int)
    ignored: dict[int, int] = defaultdict(int)
    for (object_id, prediction_id), area in overlaps.items():
        object_areas[object_id] += area
        prediction_areas[prediction_id] += area
    counts: dict[int, SegmentCounts] = defaultdict(SegmentCounts)
    matched_objects, matched_predictions = set(), set()
    for (object_id, prediction_id), area in overlaps.items():
        if prediction_id == VOID:
            continue
        if object_id == VOID:
            ignored[prediction_id] += area
            continue
        annotated, prediction = objects[object_id], predictions[prediction_id]
        if annotated["category_id"] != prediction["category_id"]:
            continue
        if annotated.get("iscrowd"):
            ignored[prediction_id] += area
            continue
        void = overlaps.get((VOID, prediction_id), 0)
        union = object_areas[object_id] + prediction_areas[prediction_id] - area - void
        if area / union > MATCH_IOU:
            matched_objects.add(object_id)
            matched_predictions.add(prediction_id)
            counts[annotated["category_id"]].matches += 1
            counts[annotated["category_id"]].iou += to_fixed_point(area / union)
    for object_id in object_areas.keys() - matched_objects - {VOID}:
        if not objects[object_id].get("iscrowd"):
            counts[objects[object_id]["category_id"]].false_negatives += 1
    for prediction_id in prediction_areas.keys() - matched_predictions - {VOID}:
        if ignored[prediction_id] / prediction_areas[prediction_id] <= MAX_IGNORED:
            counts[predictions[prediction_id]["category_id"]].false_positives += 1
    return dict(counts)


def _keep(ids: NDArray[Any], segments: Mapping[int, Any]) -> NDArray[np.int64]:
    """Return the ids as int64, those that are not listed as void."""
    kept: NDArray[np.int64] = np.where(np.isin(ids, list(segments)), ids, VOID).astype(np.int64)
    return kept


def _overlaps(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Return the number of pixels of each pair of ids."""
    stride = int(predicted.max(initial=0)) + 1
    pairs, areas = np.unique(truth * stride + predicted, return_counts=True)
    return {
        divmod(pair, stride): area
        for pair, area in zip(pairs.tolist(), areas.tolist(), strict=True)
    }
