"""Things whose names training never saw: are they found, and are they called by their names?"""

from __future__ import annotations

import contextlib
import io
import math
from collections import OrderedDict
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import NoOpTransform
from detectron2.evaluation import DatasetEvaluator
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from hipie.data.dataset_mappers.annotations import decode_mask, panoptic_masks
from hipie.data.image_io import read_label_map
from hipie.evaluation.distributed import gather_lists

MOST_DETECTIONS = 100
MATCH_IOU = 0.5


class ClassAgnosticRecall(DatasetEvaluator):
    """Recall of masks of unseen things whatever they are called, and how often they are named.

    `AR@100` is COCO's average recall over IoU 0.5 ... 0.95 with 100 masks an image, classes
    ignored, over the objects of `unseen_classes` only. `naming` is the share, among those objects
    that a mask of IoU 0.5 or more shows, whose best-scored such mask bears the right name;
    `naming_low` and `naming_high` are Wilson's 95 % interval, and `chance` is that of guessing
    among all things. All in percent.

    Args:
        dataset_name: a registered data set with `unseen_classes` in its metadata, and records
            with `segments_info` or `annotations`.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    protocol = "masks of things with unseen names, whatever they are called, 100 an image"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "unseen"
    ) -> None:
        metadata = MetadataCatalog.get(dataset_name)
        names = list(metadata.thing_classes)
        self._unseen = {names.index(name) for name in metadata.unseen_classes}
        self._things = len(names)
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._images: list[dict[str, Any]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the run lengths of a batch: objects of unseen classes, and the best 100 masks."""
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            masks, classes = _annotated_masks(record)
            wanted = [i for i, c in enumerate(classes) if int(c) in self._unseen]
            found = output["instances"].to("cpu")
            best = found.scores.argsort(descending=True, stable=True)[:MOST_DETECTIONS]
            found = found[best]
            self._images.append(
                {
                    "image_id": item["image_id"],
                    "size": (record["height"], record["width"]),
                    "objects": [_runs(masks[i]) for i in wanted],
                    "classes": [int(classes[i]) for i in wanted],
                    "found": [_runs(mask) for mask in found.pred_masks.numpy()],
                    "scores": found.scores.tolist(),
                    "names": found.pred_classes.tolist(),
                }
            )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        images = gather_lists(self._images, self._distributed)
        if images is None:
            return None
        named, shown = 0, 0
        for image in images:
            hits, matched = _named(image)
            named, shown = named + hits, shown + matched
        low, high = wilson_interval(named, shown)
        scores = {
            "AR@100": average_recall(images),
            "objects": sum(len(image["objects"]) for image in images),
            "matched": shown,
            "naming": 100.0 * named / shown if shown else float("nan"),
            "naming_low": 100.0 * low,
            "naming_high": 100.0 * high,
            "chance": 100.0 / self._things,
        }
        return OrderedDict({self._result_name: scores})


def wilson_interval(hits: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a share, 0..1 (Wilson, JASA 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    share = hits / trials
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    middle, scale = share + z * z / (2 * trials), 1 + z * z / trials
    return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)


def average_recall(images: list[dict[str, Any]]) -> float:
    """COCO's AR with 100 masks an image over all objects as one class, percent.

    Args:
        images: dicts with `image_id`, `size`, `objects` and `found` (run lengths), `scores`.

    Returns:
        NaN if there are no objects.
    """
    if not any(image["objects"] for image in images):
        return float("nan")
    truth, found = COCO(), []
    truth.dataset = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    for number, image in enumerate(images, 1):
        height, width = image["size"]
        truth.dataset["images"].append({"id": number, "height": height, "width": width})
        for runs in image["objects"]:
            truth.dataset["annotations"].append(
                {
                    "id": len(truth.dataset["annotations"]) + 1,
                    "image_id": number,
                    "category_id": 1,
                    "segmentation": runs,
                    "area": float(mask_util.area(runs)),
                    "bbox": mask_util.toBbox(runs).tolist(),
                    "iscrowd": 0,
                }
            )
        for runs, score in zip(image["found"], image["scores"], strict=True):
            found.append(
                {"image_id": number, "category_id": 1, "segmentation": runs, "score": score}
            )
    if not found:
        return 0.0
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(found), "segm")
        judge.params.maxDets = [MOST_DETECTIONS]
        judge.params.areaRng = [judge.params.areaRng[0]]
        judge.params.areaRngLbl = ["all"]
        judge.evaluate()
        judge.accumulate()
    return 100.0 * float(judge.eval["recall"].mean())


def _named(image: dict[str, Any]) -> tuple[int, int]:
    """How many objects were called by their name, and how many were matched at all."""
    if not image["objects"] or not image["found"]:
        return 0, 0
    overlaps = mask_util.iou(image["found"], image["objects"], [0] * len(image["objects"]))
    hits = matched = 0
    for column, wanted in enumerate(image["classes"]):
        shows = np.flatnonzero(overlaps[:, column] >= MATCH_IOU)
        if len(shows):
            matched += 1
            hits += image["names"][shows[0]] == wanted
    return hits, matched


def _annotated_masks(record: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    if "segments_info" in record:
        colours = read_label_map(record["pan_seg_file_name"])
        return panoptic_masks(colours, record["segments_info"], NoOpTransform())
    kept = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    size = record["height"], record["width"]
    masks = [decode_mask(a["segmentation"], *size) for a in kept]
    return np.array(masks, dtype=bool), np.array([a["category_id"] for a in kept], dtype=np.int64)


def _runs(mask: np.ndarray) -> dict[str, Any]:
    return mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
