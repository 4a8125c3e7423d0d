"""Predictions as arrays against the dicts that they were made from."""

from __future__ import annotations

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Boxes, Instances

from hipie.evaluation.instance_predictions import InstancePredictions


def draw(rng: np.random.Generator, count: int, masks: bool) -> Instances:
    size = (int(rng.integers(3, 30)), int(rng.integers(3, 30)))
    instances = Instances(size)
    instances.pred_boxes = Boxes(torch.from_numpy(rng.random((count, 4)).astype(np.float32)))
    instances.scores = torch.from_numpy(rng.random(count).astype(np.float32))
    instances.pred_classes = torch.from_numpy(rng.integers(0, 1203, count))
    if masks:
        instances.pred_masks = torch.from_numpy(rng.random((count, *size)) < 0.5)
    return instances


@pytest.mark.parametrize("masks", [True, False])
def test_equal_to_detectron2s_predictions(masks: bool) -> None:
    rng = np.random.default_rng(0)
    stored, expected = InstancePredictions(), []
    for number, count in enumerate([3, 0, 40, 0, 1]):
        image_id = f"image {number}é" if number == 2 else 10**12 + number
        results = instances_to_coco_json(draw(rng, count, masks), image_id)
        stored.add(image_id, results)
        expected.append({"image_id": image_id, "instances": results})
    assert len(stored) == 5
    assert stored.gather(distributed=True) == expected


def test_size_of_an_instance() -> None:
    stored, instances = InstancePredictions(), draw(np.random.default_rng(0), 100, masks=True)
    results = instances_to_coco_json(instances, 1)
    stored.add(1, results)
    counts = sum(len(result["segmentation"]["counts"]) for result in results)
    assert sum(array.nbytes for array in stored.arrays()) <= 100 * 52 + counts + 40
    assert mask_util.area(results[0]["segmentation"]) > 0
