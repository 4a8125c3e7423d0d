"""Evaluator of class-agnostic recall and naming accuracy of classes that are not in training."""

from __future__ import annotations

import contextlib
import io
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import MetadataCatalog
from detectron2.data.transforms import NoOpTransform
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hipie.data.annotation_maps import read_panoptic_map
from hipie.data.broken_images import reading_rules_of
from hipie.data.dataset_mappers.annotations import instance_masks, panoptic_masks
from hipie.data.io.reading_rules import read_by
from hipie.data.io.rle import RLE
from hipie.data.record_list import read_records
from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.metrics.averages import mean, ratio

MAX_DETECTIONS = 100
MATCH_IOU = 0.5
IOUS = tuple(np.linspace(0.5, 0.95, 10).tolist())
"""IoUs over which COCO averages the recall."""


@dataclass(frozen=True)
class ImageDetections:
    """Objects of unseen classes in one image, and the predicted masks.

    Attributes:
        size: (height, width).
        objects: ground-truth masks.
        object_classes: class of each object.
        detections: predicted masks of any class, by descending score.
        scores: of the detections.
        detection_classes: predicted class of each detection.
    """

    size: tuple[int, int]
    objects: Sequence[RLE]
    object_classes: Sequence[int]
    detections: Sequence[RLE]
    scores: Sequence[float]
    detection_classes: Sequence[int]


class ClassAgnosticRecall(DatasetEvaluator):
    """Recall of masks of unseen classes, whatever their predicted class, and naming accuracy.

    `AR@100` is COCO's average recall over IoU 0.5 ... 0.95 with 100 masks an image, classes
    ignored, over the objects of `unseen_classes` only. `naming` is the fraction, among the objects
    matched by a mask of IoU 0.5 or more (`matched`), whose best-scored such mask has the right
    class; `naming_low` and `naming_high` are Wilson's 95 % interval, and `chance` is that of
    guessing among all thing classes. All in percent.

    Args:
        dataset_name: a registered data set with `unseen_classes` in its metadata, and records
            with `segments_info` or `annotations`.
        distributed: sum the counts of all processes.
        result_name: key of the results.
    """

    protocol = "masks of unseen classes, whatever their predicted class, 100 an image"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "unseen"
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._rules = reading_rules_of(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        names = list(metadata.thing_classes)
        self._unseen = {names.index(name) for name in metadata.unseen_classes}
        self._num_classes = len(names)
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the images counted so far."""
        # Objects, those matched at each IoU of COCO, those matched at MATCH_IOU, correct classes.
        self._counts = {"objects": [0], "recalled": [0] * len(IOUS), "matched": [0], "correct": [0]}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match the objects of unseen classes with the best 100 masks of each image."""
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records.of_image(item["image_id"])
            with read_by(self._rules):
                masks, classes = _annotated_masks(record)
            unseen = [i for i, class_id in enumerate(classes) if int(class_id) in self._unseen]
            instances = output["instances"].to("cpu")
            best = instances.scores.argsort(descending=True, stable=True)[:MAX_DETECTIONS]
            instances = instances[best]
            image = ImageDetections(
                (record["height"], record["width"]),
                [_encode_rle(masks[i]) for i in unseen],
                [int(classes[i]) for i in unseen],
                [_encode_rle(mask) for mask in instances.pred_masks.numpy()],
                instances.scores.tolist(),
                instances.pred_classes.tolist(),
            )
            correct, matched = _count_naming(image)
            for name, values in (
                ("objects", [len(image.objects)]),
                ("recalled", count_recalled(image)),
                ("matched", [matched]),
                ("correct", [correct]),
            ):
                self._counts[name] = [
                    a + b for a, b in zip(self._counts[name], values, strict=True)
                ]

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        counts = sum_integers(self._counts, self._distributed)
        if counts is None:
            return None
        (objects,), (matched,), (correct,) = (
            counts[name] for name in ("objects", "matched", "correct")
        )
        low, high = wilson_interval(correct, matched)
        scores = {
            "AR@100": mean(ratio(recalled, objects) for recalled in counts["recalled"]),
            "objects": objects,
            "matched": matched,
            "naming": ratio(correct, matched),
            "naming_low": 100.0 * low,
            "naming_high": 100.0 * high,
            "chance": 100.0 / self._num_classes,
        }
        return OrderedDict({self._result_name: scores})


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Compute Wilson's score interval of a proportion, 0..1 (Wilson, JASA 1927).

    Args:
        successes: number of successful trials.
        trials: number of trials; without any the interval is (0, 1).
        z: quantile of the normal distribution; by default for 95 %.
    """
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    margin = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    centre, scale = share + z * z / (2 * trials), 1 + z * z / trials
    return max(0.0, (centre - margin) / scale), min(1.0, (centre + margin) / scale)


def count_recalled(image: ImageDetections) -> list[int]:
    """Count the objects that COCO's evaluation matches, whatever their class, at each of `IOUS`."""
    if not image.objects or not image.detections:
        return [0] * len(IOUS)
    height, width = image.size
    truth = COCO()
    truth.dataset = {
        "images": [{"id": 1, "height": height, "width": width}],
        "annotations": [
            {
                "id": number,
                "image_id": 1,
                "category_id": 1,
                "segmentation": rle,
                "area": float(mask_util.area(rle)),
                "bbox": mask_util.toBbox(rle).tolist(),
                "iscrowd": 0,
            }
            for number, rle in enumerate(image.objects, 1)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    detections = [
        {"image_id": 1, "category_id": 1, "segmentation": rle, "score": score}
        for rle, score in zip(image.detections, image.scores, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco_eval = COCOeval(truth, truth.loadRes(detections), "segm")
        coco_eval.params.maxDets = [MAX_DETECTIONS]
        coco_eval.params.areaRng = [coco_eval.params.areaRng[0]]
        coco_eval.params.areaRngLbl = ["all"]
        coco_eval.params.iouThrs = np.array(IOUS)
        coco_eval.evaluate()
    (result,) = coco_eval.evalImgs
    matches: list[int] = (result["dtMatches"] > 0).sum(axis=1).tolist()
    return matches


def _count_naming(image: ImageDetections) -> tuple[int, int]:
    """Count the matched objects with the right class, and all matched objects."""
    if not image.objects or not image.detections:
        return 0, 0
    ious = mask_util.iou(list(image.detections), list(image.objects), [0] * len(image.objects))
    correct = matched = 0
    for column, class_id in enumerate(image.object_classes):
        matches = np.flatnonzero(ious[:, column] >= MATCH_IOU)
        if len(matches):
            matched += 1
            correct += image.detection_classes[matches[0]] == class_id
    return correct, matched


def _annotated_masks(record: dict[str, Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return masks [N, H, W] bool and classes [N] of a record's objects, without crowds."""
    if "segments_info" in record:
        labels = read_panoptic_map(record["pan_seg_file_name"])
        return panoptic_masks(labels, record["segments_info"], NoOpTransform())
    return instance_masks(record["annotations"], record["height"], record["width"], NoOpTransform())


def _encode_rle(mask: NDArray[Any]) -> RLE:
    rle: RLE = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle
