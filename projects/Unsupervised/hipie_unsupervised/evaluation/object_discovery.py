"""Evaluator of class-agnostic AP and CorLoc."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator

from hipie.data.io.rle import to_rle
from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.coco_evaluation import PanopticInstanceEvaluator
from hipie.evaluation.coco_ground_truth import GroundTruth
from hipie.evaluation.metrics.averages import ratio

LOCALIZED_IOU = 0.5


class ObjectDiscoveryEvaluator(PanopticInstanceEvaluator):
    """COCO's AP of boxes and masks without classes, and CorLoc.

    All things of the data set are objects of one class, and so are all predictions. CorLoc
    (Deselaers et al., ECCV 2010) is the share of the images with objects whose best-scored
    prediction has an IoU of at least 0.5 with any object; it is computed for boxes, as published,
    and for masks. Crowds do not count.

    Args:
        dataset_name: a registered data set with thing classes.
        output_folder, faster: see `COCOInstanceEvaluator`.
    """

    protocol = "all classes as one"
    requested_results = ("instances",)

    def _evaluated_classes(self) -> dict[int, str]:
        self._things = super()._evaluated_classes()
        return {0: "object"}

    def _select(self, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**instance, "category_id": 0} for instance in instances]

    @property
    def num_images(self) -> int:
        """Number of images of the data set."""
        return len(self._records)

    def add_annotations(self, content: Mapping[str, Any], image_root: str) -> int:
        """Keep masks of a file in COCO's format as predictions.

        An annotation without `score` has 1 / its position among those of its image.

        Args:
            content: `images` with `file_name`, and `annotations` with `segmentation`.
            image_root: folder of the file names.

        Returns:
            Number of images of the data set that the file has.
        """
        of_image: dict[Any, list[Mapping[str, Any]]] = {}
        for entry in content["annotations"]:
            of_image.setdefault(entry["image_id"], []).append(entry)
        root = os.path.abspath(image_root)
        files = {os.path.join(root, image["file_name"]): image for image in content["images"]}
        known = 0
        for record in self._records:
            image = files.get(os.path.abspath(record["file_name"]))
            if image is None:
                continue
            known += 1
            size = (int(record["height"]), int(record["width"]))
            entries = of_image.get(image["id"], [])
            instances = [
                _as_result(entry, record["image_id"], size, 1 / position)
                for position, entry in enumerate(entries, 1)
            ]
            self._predictions.add(record["image_id"], instances)
        return known

    def ground_truth(self) -> GroundTruth:
        """Return the things of all images, all of one class."""
        classes, self._classes = self._classes, self._things
        try:
            truth = super().ground_truth()
        finally:
            self._classes = classes
        known = {index + 1 for index in self._things}
        truth.annotations = [
            {**entry, "category_id": 1}
            for entry in truth.annotations
            if entry["category_id"] in known
        ]
        return truth

    def _restore_category_ids(self, results: list[dict[str, Any]]) -> None:
        for result in results:
            result["category_id"] = 1

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> None:
        super()._eval_predictions(predictions, img_ids)
        truth = self.ground_truth()
        sizes = {image["id"]: (image["height"], image["width"]) for image in truth.images}
        best: dict[Any, dict[str, Any]] = {}
        for image in predictions:
            if image["instances"]:
                number = truth.image_numbers[image["image_id"]]
                best[number] = max(image["instances"], key=lambda instance: instance["score"])
        for task in self._results:
            self._results[task]["CorLoc"] = corloc(truth.annotations, best, sizes, task)


def _as_result(
    entry: Mapping[str, Any], image_id: Any, size: tuple[int, int], score: float
) -> dict[str, Any]:
    """COCO result of the class 0 with the mask of an annotation."""
    rle = dict(to_rle(entry["segmentation"], *size))
    if isinstance(rle["counts"], bytes):
        rle["counts"] = rle["counts"].decode("ascii")
    return {
        "image_id": image_id,
        "category_id": 0,
        "bbox": mask_util.toBbox(rle).tolist(),
        "score": float(entry.get("score", score)),
        "segmentation": rle,
    }


def corloc(
    objects: Iterable[Mapping[str, Any]],
    predictions: Mapping[Any, Mapping[str, Any]],
    sizes: Mapping[Any, tuple[int, int]],
    task: str,
) -> float:
    """Compute CorLoc in percent; NaN without an object.

    Args:
        objects: COCO annotations; crowds do not count.
        predictions: by image id, one with `bbox` (XYWH) and, for masks, `segmentation`.
        sizes: (height, width) by image id.
        task: "bbox" or "segm".
    """
    by_image: dict[Any, list[Mapping[str, Any]]] = {}
    for entry in objects:
        if not entry.get("iscrowd"):
            by_image.setdefault(entry["image_id"], []).append(entry)
    localized = sum(
        image in predictions
        and _best_iou(predictions[image], entries, sizes[image], task) >= LOCALIZED_IOU
        for image, entries in by_image.items()
    )
    return ratio(localized, len(by_image))


def _best_iou(
    prediction: Mapping[str, Any],
    objects: Sequence[Mapping[str, Any]],
    size: tuple[int, int],
    task: str,
) -> float:
    """Largest IoU of a prediction with the objects of its image."""
    if task == "bbox":
        shapes = [np.asarray([entry["bbox"]], np.float64) for entry in (prediction, *objects)]
        ious = mask_util.iou(shapes[0], np.concatenate(shapes[1:]), [0] * len(objects))
        return float(ious.max())
    if "segmentation" not in prediction:
        return 0.0
    masks = [to_rle(entry["segmentation"], *size) for entry in objects if "segmentation" in entry]
    if not masks:
        return 0.0
    ious = mask_util.iou([to_rle(prediction["segmentation"], *size)], masks, [0] * len(masks))
    return float(ious.max())


@EVALUATOR_REGISTRY.register()
def object_discovery(
    cfg: CfgNode, dataset_name: str, output_folder: str | None
) -> DatasetEvaluator:
    """Build the evaluator of class-agnostic AP and CorLoc."""
    faster = cfg.TEST.FASTER_COCO_EVAL
    return ObjectDiscoveryEvaluator(dataset_name, output_folder, faster=faster)
