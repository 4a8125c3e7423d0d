"""Evaluator of LVIS's box and mask AP (Gupta et al., CVPR 2019), and of AP_fixed."""

from __future__ import annotations

import itertools
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pycocotools.mask as mask_util
from detectron2.data.catalog import Metadata
from detectron2.utils import comm
from numpy.typing import NDArray

from hipie.data.broken_images import reading_rules_of
from hipie.data.datasets.coco_instances import FEDERATED_KEYS
from hipie.data.datasets.lvis import lvis_records
from hipie.data.io.json_file import read_json
from hipie.data.io.missing_images import accept_missing_images
from hipie.data.io.reading_rules import read_by
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.coco_evaluation import COCOInstanceEvaluator, load_faster_coco_eval
from hipie.evaluation.coco_ground_truth import GroundTruth

MAX_DETECTIONS_PER_IMAGE = 300
MAX_FIXED_DETECTIONS_PER_CLASS = 10_000
AREA_RANGES = ("all", "small", "medium", "large")
FREQUENCIES = ("r", "c", "f")

Annotation = dict[str, Any]
Record = dict[str, Any]


class LVISInstanceEvaluator(COCOInstanceEvaluator):
    """LVIS's AP of boxes and masks, computed by faster-coco-eval; the package lvis is not needed.

    LVIS is federated: a class is evaluated only on the images where it has an object or is listed
    in `neg_category_ids`. Where it is in `not_exhaustive_category_ids`, detections that match no
    object are ignored. Of each image the 300 best detections of all classes count, or with
    `fixed`, of each class the 10,000 best of the whole data set (AP_fixed of Dave et al.,
    "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details", 2021).

    The ground truth are the checked records, as for COCO: areas are counted from the masks, and
    what the reader leaves out is not counted. Of the file only the frequencies of the classes are
    used; where the data set was registered by Detectron2, whose reader checks nothing, the file is
    read by the reader of this package. Masks are evaluated if every object has one.

    Results of each task are AP, AP50, AP75, APs, APm, APl, and APr, APc, APf of rare, common and
    frequent classes, in percent; NaN where no class has an object. A file without annotations
    gives no results, only the file of predictions.

    Args:
        dataset_name: a registered data set whose `json_file` has LVIS's format. Without
            `thing_dataset_id_to_contiguous_id` the classes are in the order of the category ids.
        output_folder: where predictions are written; None = nowhere.
        fixed: compute AP_fixed.

    Raises:
        ValueError: if faster-coco-eval is not installed, or the file or the records do not have
            what LVIS's format has.
    """

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, fixed: bool = False
    ) -> None:
        load_faster_coco_eval(f"the data set {dataset_name}")
        super().__init__(dataset_name, output_folder, faster=True)
        self._fixed = fixed
        limit = "10,000 a class over the data set" if fixed else "300 an image"
        self.protocol = f"LVIS {'AP_fixed' if fixed else 'AP'}, IoU 0.5 to 0.95, at most {limit}"

    def _read_annotations(self) -> None:
        self._truth: GroundTruth | None = None
        self._content: dict[str, Any] = {}
        records: Sequence[Record] | None = None
        if self._metadata.get("vocabulary") is not None:
            records = read_records(self._dataset_name)
        if not comm.is_main_process():
            return
        file = self._metadata.json_file
        rules = reading_rules_of(self._dataset_name)
        with read_by(rules):
            content = read_json(file, ("images", "categories"))
        _check_frequencies(file, content)
        ids = self._metadata.get("thing_dataset_id_to_contiguous_id") or _contiguous_ids(content)
        self._metadata: Metadata = Metadata().set(thing_dataset_id_to_contiguous_id=ids)
        if records is None:
            if "annotations" not in content:
                return
            with read_by(rules), accept_missing_images():
                records = lvis_records(file, content, os.path.dirname(file), dict(ids))
        categories = [
            {"id": ids[entry["id"]] + 1, "frequency": entry["frequency"], "name": entry["name"]}
            for entry in content["categories"]
        ]
        self._truth, images = _ground_truth(self._dataset_name, records)
        if self._truth.boxes_only:
            self._logger.warning(
                "%s: %d objects have no mask, so that masks are not evaluated",
                self._dataset_name,
                self._truth.boxes_only,
            )
        self._content = {
            "images": images,
            "annotations": self._truth.annotations,
            "categories": categories,
        }

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> None:
        """Fill `self._results`; called by `evaluate` on the first process."""
        results = [result for image in predictions for result in image["instances"]]
        numbers = self._truth.image_numbers if self._truth is not None else {}
        numbered = [
            {
                **result,
                "image_id": numbers[result["image_id"]],
                "category_id": result["category_id"] + 1,
            }
            for result in (results if self._truth is not None else ())
        ]
        self._restore_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "lvis_instances_results.json")
            with open(path, "w") as file:
                json.dump(results, file)
        if self._truth is None:
            return
        numbered = best_per_class(numbered) if self._fixed else best_per_image(numbered)
        has_masks = not numbered or any("segmentation" in result for result in numbered)
        has_masks = has_masks and not self._truth.boxes_only
        for task in ("bbox", "segm") if has_masks else ("bbox",):
            self._results[task] = lvis_metrics(self._content, numbered, task)


def _ground_truth(
    dataset_name: str, records: Iterable[Record]
) -> tuple[GroundTruth, list[dict[str, Any]]]:
    """Return the objects of records, and the images with the classes that were verified.

    Raises:
        InputError: naming the image whose record does not say which classes were verified.
    """
    truth = GroundTruth()
    federated = []
    for record in records:
        for key in FEDERATED_KEYS:
            if key not in record:
                raise InputError(
                    f'{dataset_name}: image {record["image_id"]} needs "{key}" to be evaluated as '
                    "LVIS"
                )
        truth.add(record, record.get("annotations") or ())
        federated.append({key: [i + 1 for i in record[key]] for key in FEDERATED_KEYS})
    return truth, [{**i, **keys} for i, keys in zip(truth.images, federated, strict=True)]


def best_per_image(
    results: Sequence[Annotation], limit: int = MAX_DETECTIONS_PER_IMAGE
) -> list[Annotation]:
    """Return the detections of highest score of each image, of all classes together.

    Args:
        results: detections in COCO's format.
        limit: maximum number per image; of equal scores the first are kept.
    """
    return _best_of_groups(results, "image_id", limit)


def best_per_class(
    results: Sequence[Annotation], limit: int = MAX_FIXED_DETECTIONS_PER_CLASS
) -> list[Annotation]:
    """Return the detections of highest score of each class, of all images together.

    Args:
        results: detections in COCO's format.
        limit: maximum number per class; of equal scores those of lower image ids are kept.
    """
    ordered = sorted(results, key=lambda result: result["image_id"])
    return _best_of_groups(ordered, "category_id", limit)


def lvis_metrics(
    content: dict[str, Any], results: Sequence[Annotation], task: str
) -> dict[str, float]:
    """Compute LVIS's metrics of all given detections.

    The classes are evaluated one by one, each on its own images, since a class of LVIS has few:
    tables of all pairs of an image and a class take gigabytes.

    Args:
        content: an annotation file in LVIS's format.
        results: detections in COCO's format, with the category ids of the file.
        task: "bbox" or "segm".

    Returns:
        Metrics in percent; NaN where no class has an object.
    """
    annotations, detections = defaultdict(list), defaultdict(list)
    for annotation in content["annotations"]:
        annotations[annotation["category_id"]].append(annotation)
    for result in results:
        detections[result["category_id"]].append(result)
    verified_images: defaultdict[int, set[int]] = defaultdict(set)
    for image in content["images"]:
        for category_id in image["neg_category_ids"]:
            verified_images[category_id].add(image["id"])
    images = {image["id"]: image for image in content["images"]}
    curves, frequencies = [], []
    for category in content["categories"]:
        objects = annotations[category["id"]]
        if not objects:
            continue  # a class without any object has no precision
        image_ids = verified_images[category["id"]] | {entry["image_id"] for entry in objects}
        selected = [entry for entry in detections[category["id"]] if entry["image_id"] in image_ids]
        class_images = [images[image_id] for image_id in sorted(image_ids)]
        curves.append(_class_precision(category, class_images, objects, selected, task))
        frequencies.append(category["frequency"])
    return _summarize(np.array(curves).reshape(len(curves), 10, 101, len(AREA_RANGES)), frequencies)


def _contiguous_ids(content: dict[str, Any]) -> dict[int, int]:
    """Return category id -> class index, which follow the order of the ids."""
    ids = sorted(category["id"] for category in content["categories"])
    return {category_id: index for index, category_id in enumerate(ids)}


def _summarize(precision: NDArray[np.float64], frequencies: Sequence[str]) -> dict[str, float]:
    """Average precision [classes, IoU thresholds, recalls, area ranges], where it is not -1."""
    metrics = {
        "AP": _mean(precision[..., 0]),
        "AP50": _mean(precision[:, 0, :, 0]),
        "AP75": _mean(precision[:, 5, :, 0]),
    }
    for index, name in enumerate(AREA_RANGES[1:], 1):
        metrics[f"AP{name[0]}"] = _mean(precision[..., index])
    for frequency in FREQUENCIES:
        selected = np.array([value == frequency for value in frequencies], dtype=bool)
        metrics[f"AP{frequency}"] = _mean(precision[selected, :, :, 0])
    return metrics


def _class_precision(
    category: Annotation,
    images: Sequence[Annotation],
    objects: Sequence[Annotation],
    detections: Sequence[Annotation],
    task: str,
) -> NDArray[np.float64]:
    """Compute the precision of a class [IoU thresholds, recalls, area ranges]; -1: no object."""
    from faster_coco_eval import COCO

    def as_coco(entries: list[Annotation]) -> Any:
        # Numbers start at 1: an annotation with the id 0 is never matched.
        annotations = [{**entry, "id": i, "iscrowd": 0} for i, entry in enumerate(entries, 1)]
        return COCO({"images": list(images), "categories": [category], "annotations": annotations})

    counts: defaultdict[int, int] = defaultdict(int)
    for detection in detections:
        counts[detection["image_id"]] += 1
    truth = as_coco([dict(entry) for entry in objects])
    predicted = as_coco([_with_area(entry, task) for entry in detections])
    evaluation = load_faster_coco_eval()(
        truth, predicted, task, lvis_style=True, print_function=_ignore
    )
    evaluation.params.maxDets = [max(counts.values(), default=1)]
    evaluation.evaluate()
    evaluation.accumulate()
    precision: NDArray[np.float64] = np.asarray(evaluation.eval["precision"])
    return precision[:, :, 0, :, 0]


def _with_area(detection: Annotation, task: str) -> Annotation:
    """Return a detection with the area by which LVIS assigns it to a size, of its box or mask."""
    if task == "segm":
        return {**detection, "area": float(mask_util.area(detection["segmentation"]))}
    return {**detection, "area": float(detection["bbox"][2] * detection["bbox"][3])}


def _best_of_groups(results: Sequence[Annotation], key: str, limit: int) -> list[Annotation]:
    groups = defaultdict(list)
    for result in results:
        groups[result[key]].append(result)
    best = [sorted(group, key=_score, reverse=True)[:limit] for group in groups.values()]
    return list(itertools.chain.from_iterable(best))


def _score(result: Annotation) -> float:
    return float(result["score"])


def _mean(precision: NDArray[np.float64]) -> float:
    known = precision[precision > -1]
    return 100.0 * float(known.mean()) if known.size else float("nan")


def _ignore(*messages: Any) -> None:
    """Print nothing."""


def _check_frequencies(file: str, content: dict[str, Any]) -> None:
    """Raise an `InputError` that names the first category without a frequency."""
    for category in content["categories"]:
        if category.get("frequency") not in FREQUENCIES:
            raise InputError(
                f'{file}: category {category["id"]} needs "frequency", one of r, c and f, to be '
                "evaluated as LVIS"
            )
