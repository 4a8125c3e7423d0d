"""Scores of single images: hand-made cases, and the formula of panopticapi."""

from __future__ import annotations

import numpy as np
import pytest

from hipie.evaluation.metrics.image_quality import label_quality, mask_iou, segment_quality
from hipie.segmentation import Segment


def segment(label: str, columns: slice, score: float = 1.0) -> Segment:
    mask = np.zeros((4, 12), bool)
    mask[:, columns] = True
    return Segment(label, "thing", mask, score)


def test_segments_are_matched_by_class_and_overlap():
    truth = [segment("cup", slice(0, 4)), segment("cup", slice(8, 12))]
    assert segment_quality(truth, truth) == 1.0
    assert segment_quality([], []) == 1.0
    assert segment_quality([], truth) == segment_quality(truth, []) == 0.0
    assert segment_quality([segment("box", slice(0, 4))], truth[:1]) == 0.0
    # One match of IoU 3/4; one annotated segment is missed.
    assert segment_quality([segment("cup", slice(0, 3))], truth) == pytest.approx(0.75 / 1.5)
    # An IoU of exactly one half is no match.
    assert segment_quality([segment("cup", slice(0, 2))], truth[:1]) == 0.0


def test_an_annotated_segment_is_matched_once_by_the_highest_score():
    truth = [segment("cup", slice(0, 4))]
    low, high = segment("cup", slice(0, 4), 0.5), segment("cup", slice(0, 3), 0.9)
    assert segment_quality([low, high], truth) == pytest.approx(0.75 / 1.5)


def test_labels_are_compared_by_the_mean_over_their_classes():
    truth = np.array([[0, 0, 1, -1]])
    assert label_quality(np.array([[0, 0, 1, 5]]), truth) == 1.0
    # Class 0: 1 of 2 pixels; class 1: 1 of 1; class 2 is predicted only.
    assert label_quality(np.array([[0, 2, 1, 1]]), truth) == pytest.approx((0.5 + 1 + 0) / 3)
    assert label_quality(np.array([[3]]), np.array([[-1]])) == 1.0


def test_masks_without_pixels_are_equal():
    empty, full = np.zeros((2, 2), bool), np.ones((2, 2), bool)
    assert mask_iou(empty, empty) == 1.0
    assert mask_iou(empty, full) == mask_iou(full, empty) == 0.0


def test_disjoint_segments_have_the_quality_of_panopticapi():
    """Of one class, where the mean over classes is that of the image."""
    evaluation = pytest.importorskip("panopticapi.evaluation")
    rng = np.random.default_rng(0)
    truth_ids, predicted_ids = rng.integers(0, 3, (2, 4, 12))
    predicted_ids = np.where(rng.random((4, 12)) < 0.8, truth_ids, predicted_ids)

    def segments(ids):
        return [Segment("cup", "thing", ids == i, 1.0) for i in np.unique(ids)]

    stat = evaluation.PQStat()
    for one in segments(predicted_ids):
        best = max(segments(truth_ids), key=lambda other, one=one: mask_iou(one.mask, other.mask))
        iou = mask_iou(one.mask, best.mask)
        stat[0].tp, stat[0].iou = stat[0].tp + (iou > 0.5), stat[0].iou + iou * (iou > 0.5)
        stat[0].fp += iou <= 0.5
    stat[0].fn = len(segments(truth_ids)) - stat[0].tp
    (result, _) = stat.pq_average({0: {"isthing": 1}}, None)
    assert segment_quality(segments(predicted_ids), segments(truth_ids)) == pytest.approx(
        result["pq"]
    )
