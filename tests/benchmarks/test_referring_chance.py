"""Masks of a model, of other expressions and of chance are counted against the same targets."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.structures import Instances

from benchmarks import referring_chance
from hipie.evaluation.metrics.expression_iou import OverlapCounts

SIZE = (20, 30)


@pytest.fixture
def record():
    masks = np.zeros((2, *SIZE), bool)
    masks[0, :10, :10] = True
    masks[1, 10:, 20:] = True
    encodable = [np.asfortranarray(mask, np.uint8) for mask in masks]
    return {
        "file_name": "page.png",
        "height": SIZE[0],
        "width": SIZE[1],
        "annotations": [{"segmentation": mask_util.encode(rows)} for rows in encodable],
        "expressions": [
            {"expression": "left", "targets": [0]},
            {"expression": "the left one", "targets": [0]},
            {"expression": "right", "targets": [1]},
        ],
    }, masks


def test_shuffled_expressions_are_about_other_objects(record):
    record, masks = record
    outputs = []
    for target in (0, 0, 1):
        instances = Instances(SIZE)
        instances.pred_masks = torch.from_numpy(masks[target])[None]
        outputs.append(instances)
    counts = defaultdict(OverlapCounts)
    referring_chance.add(counts, record, outputs, np.random.default_rng(0))
    assert counts["model"].mean_iou() == 100 and counts["model"].expressions == 3
    assert counts["model, shuffled expressions"].mean_iou() == 0
    assert counts["whole image"].mean_iou() == pytest.approx(100 / 6)


def test_random_boxes_have_uniform_corners():
    rng = np.random.default_rng(0)
    areas = [referring_chance.random_box(SIZE, rng).mean() for _ in range(20000)]
    # The mean distance of two uniform corners is a third of a side, plus the pixel of the end.
    expected = np.prod([(n * n - 1) / (3 * n) + 1 for n in SIZE]) / np.prod(SIZE)
    assert np.mean(areas) == pytest.approx(expected, rel=0.05)
    assert min(areas) > 0
