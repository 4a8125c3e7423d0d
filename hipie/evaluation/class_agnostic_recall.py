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
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hipie.data.dataset_mappers.annotations import decode_mask, panoptic_masks
from hipie.data.image_io import read_label_map
from hipie.data.io.rle import RLE
from hipie.evaluation.distributed import gather_lists

MAX_DETECTIONS = 100
MATCH_IOU = 0.5


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
        distributed: gather the detections of all processes.
        result_name: key of the results.
    """

    protocol = "masks of unseen classes, whatever their predicted class, 100 an image"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "unseen"
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        names = list(metadata.thing_classes)
        self._unseen = {names.index(name) for name in metadata.unseen_classes}
        self._num_classes = len(names)
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the images collected so far."""
        self._images: list[ImageDetections] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the objects of unseen classes and the best 100 masks of a batch, as RLEs."""
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            masks, classes = _annotated_masks(record)
            unseen = [i for i, class_id in enumerate(classes) if int(class_id) in self._unseen]
            instances = output["instances"].to("cpu")
            best = instances.scores.argsort(descending=True, stable=True)[:MAX_DETECTIONS]
            instances = instances[best]
            self._images.append(
                ImageDetections(
                    (record["height"], record["width"]),
                    [_encode_rle(masks[i]) for i in unseen],
                    [int(classes[i]) for i in unseen],
                    [_encode_rle(mask) for mask in instances.pred_masks.numpy()],
                    instances.scores.tolist(),
                    instances.pred_classes.tolist(),
                )
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        images = gather_lists(self._images, self._distributed)
        if images is None:
            return None
        correct = matched = 0
        for image in images:
            image_correct, image_matched = _count_naming(image)
            correct, matched = correct + image_correct, matched + image_matched
        low, high = wilson_interval(correct, matched)
        scores = {
            "AR@100": average_recall(images),
            "objects": sum(len(image.objects) for image in images),
            "matched": matched,
            "naming": 100.0 * correct / matched if matched else float("nan"),
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


def average_recall(images: Sequence[ImageDetections]) -> float:
    """Compute COCO's AR with 100 masks an image over all objects as one class, in percent.

    Returns:
        NaN if there are no objects.
    """
    if not any(image.objects for image in images):
        return float("nan")
    truth, detections = COCO(), []
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for image_id, image in enumerate(images, 1):
        height, width = image.size
        truth.dataset["images"].append({"id": image_id, "height": height, "width": width})
        for rle in image.objects:
            truth.dataset["annotations"].append(
                {
                    "id": len(truth.dataset["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": 1,
                    "segmentation": rle,
                    "area": float(mask_util.area(rle)),
                    "bbox": mask_util.toBbox(rle).tolist(),
                    "iscrowd": 0,
                }
            )
        for rle, score in zip(image.detections, image.scores, strict=True):
            detections.append(
                {"image_id": image_id, "category_id": 1, "segmentation": rle, "score": score}
            )
    if not detections:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        coco_eval = COCOeval(truth, truth.loadRes(detections), "segm")
        coco_eval.params.maxDets = [MAX_DETECTIONS]
        coco_eval.params.areaRng = [coco_eval.params.areaRng[0]]
        coco_eval.params.areaRngLbl = ["all"]
        coco_eval.evaluate()
        coco_eval.accumulate()
    return 100.0 * float(coco_eval.eval["recall"].mean())


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
        labels = read_label_map(record["pan_seg_file_name"])
        return panoptic_masks(labels, record["segments_info"], NoOpTransform())
    annotations = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    size = record["height"], record["width"]
    masks = [decode_mask(a["segmentation"], *size) for a in annotations]
    classes = np.array([a["category_id"] for a in annotations], dtype=np.int64)
    return np.array(masks, dtype=bool), classes


def _encode_rle(mask: NDArray[Any]) -> RLE:
    rle: RLE = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return rle
