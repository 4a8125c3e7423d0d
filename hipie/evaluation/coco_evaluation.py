"""Evaluators of COCO's box and mask AP."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import math
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import (
    _evaluate_predictions_on_coco,
    instances_to_coco_json,
)
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval

from hipie.data.broken_images import reading_rules_of
from hipie.data.datasets.coco_instances import load_coco_instances
from hipie.data.io.reading_rules import read_by
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.coco_ground_truth import GroundTruth, panoptic_objects
from hipie.evaluation.instance_predictions import InstancePredictions
from hipie.logs import get_logger
from hipie.vocabularies.vocabulary import Vocabulary

logger = get_logger(__name__)


@contextlib.contextmanager
def logged_prints() -> Iterator[None]:
    """Log what is printed, at debug level: pycocotools prints its progress and tables."""
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        if printed.getvalue().strip():
            logger.debug("pycocotools:\n%s", printed.getvalue().rstrip())


def load_faster_coco_eval(purpose: str = "TEST.FASTER_COCO_EVAL") -> type:
    """Import the replacement of pycocotools' `COCOeval` from faster-coco-eval.

    Args:
        purpose: what needs the package, for the error message.

    Raises:
        ValueError: if the package is not installed.
    """
    try:
        from faster_coco_eval import COCOeval_faster
    except ModuleNotFoundError as error:
        raise InputError(
            f"{purpose} needs the package faster-coco-eval: "
            'pip install faster-coco-eval (or "hipie[fast_evaluation]")'
        ) from error
    faster: type = COCOeval_faster
    return faster


class COCOInstanceEvaluator(COCOEvaluator):
    """COCO's AP of boxes and masks over exactly the objects that training learns.

    The ground truth are the checked records of the data set, in Detectron2's form, so that whatever
    can be trained can be evaluated: a file in COCO's format is not needed, image ids may be of any
    type, and what the reader leaves out is not counted. Where some objects have boxes only, masks
    are compared with those that have one, and the boxes of the others are ignored.

    Predictions are kept and gathered as arrays (`InstancePredictions`), and only the process that
    evaluates them builds the ground truth.

    Args:
        dataset_name: a registered data set whose records have `annotations`. With
            `thing_dataset_id_to_contiguous_id` in its metadata, predictions are written with the
            category ids of its file.
        output_folder: where predictions are written; None = nowhere.
        faster: use faster-coco-eval instead of pycocotools.
    """

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, faster: bool = False
    ) -> None:
        # Not Detectron2's constructor, which reads the annotation file without any check.
        self._coco_eval = load_faster_coco_eval() if faster else COCOeval
        self._logger = get_logger(__name__)
        self._distributed = True
        self._cpu_device = torch.device("cpu")
        self._output_dir = output_folder
        self._max_dets_per_image = [1, 10, 100]
        self._dataset_name = dataset_name
        self._metadata = MetadataCatalog.get(dataset_name)
        self._read_annotations()
        self.reset()

    def _read_annotations(self) -> None:
        """Read what predictions are compared with; called by all processes."""
        self._records = read_records(self._dataset_name)
        self._classes = self._evaluated_classes()

    def _evaluated_classes(self) -> dict[int, str]:
        """Return class index -> name of the classes that are evaluated.

        Those of a larger vocabulary that the file does not know, as in ODinW, have no AP.
        """
        vocabulary = self._metadata.get("vocabulary")
        names = vocabulary.names if vocabulary else self._metadata.get("thing_classes")
        names = names or Vocabulary.from_metadata(self._metadata).names
        contiguous_ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        known = range(len(names)) if contiguous_ids is None else set(contiguous_ids.values())
        return {index: name for index, name in enumerate(names) if index in known}

    def ground_truth(self) -> GroundTruth:
        """Return the objects of all images; called where they are counted or evaluated."""
        truth = GroundTruth()
        for record in self._records:
            truth.add(record, record.get("annotations") or ())
        return truth

    def reset(self) -> None:
        """Discard the predictions collected so far."""
        self._predictions = InstancePredictions()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Keep the instances of a batch."""
        for item, output in zip(inputs, outputs, strict=True):
            if "instances" in output:
                instances = output["instances"].to(self._cpu_device)
                results = instances_to_coco_json(instances, item["image_id"])
                self._predictions.add(item["image_id"], self._select(results))

    def _select(self, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the instances of an image that are evaluated."""
        return instances

    def evaluate(self, img_ids: list[Any] | None = None) -> dict[str, Any]:
        """Return the metrics in percent; {} on all but the first process.

        What pycocotools prints is logged.

        Args:
            img_ids: images to evaluate on; None = all.
        """
        predictions = self._predictions.gather(self._distributed)
        if predictions is None:
            return {}
        if not predictions:
            self._logger.warning("there are no predictions to evaluate")
            return {}
        if self._output_dir:
            os.makedirs(self._output_dir, exist_ok=True)
            torch.save(predictions, os.path.join(self._output_dir, "instances_predictions.pth"))
        self._results: OrderedDict[str, Any] = OrderedDict()
        with logged_prints():
            self._eval_predictions(predictions, img_ids)
        return copy.deepcopy(self._results)

    def _eval_predictions(
        self, predictions: list[dict[str, Any]], img_ids: list[Any] | None = None
    ) -> None:
        """Fill `self._results`; called by `evaluate` on the first process."""
        results = [result for image in predictions for result in image["instances"]]
        truth = self.ground_truth()
        numbered = [
            {
                **result,
                "image_id": truth.image_numbers[result["image_id"]],
                "category_id": result["category_id"] + 1,
            }
            for result in results
        ]
        self._restore_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with open(path, "w") as file:
                json.dump(results, file)
        if not truth.annotations:
            self._logger.warning(
                "%s has no annotations: predictions are not evaluated", self._dataset_name
            )
            return
        numbers = None if img_ids is None else [truth.image_numbers[i] for i in img_ids]
        for task in truth.tasks:
            coco_eval = None
            if numbered:
                coco_eval = _evaluate_predictions_on_coco(
                    truth.as_coco(self._classes.items(), task),
                    numbered,
                    task,
                    cocoeval_fn=self._coco_eval,
                    img_ids=numbers,
                    max_dets_per_image=self._max_dets_per_image,
                )
            names = list(self._classes.values())
            self._results[task] = self._derive_coco_results(coco_eval, task, names)
            if coco_eval is not None and len(names) > 1:
                self._results[task] |= _class_ap50(coco_eval, names)

    def _restore_category_ids(self, results: list[dict[str, Any]]) -> None:
        """Replace contiguous class indices by the category ids of the file, in place."""
        contiguous_ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if contiguous_ids is None:
            return
        category_ids = {index: category for category, index in contiguous_ids.items()}
        for result in results:
            index = result["category_id"]
            if index not in category_ids:
                raise InputError(
                    f"a prediction has class {index}, which is none of the data set's "
                    f"{len(category_ids)} thing classes"
                )
            result["category_id"] = category_ids[index]


class PanopticInstanceEvaluator(COCOInstanceEvaluator):
    """COCO AP of the things of a panoptic data set whose classes are in any order.

    The ground truth is the data set's `json_file` of instances, where it has one (COCO's masks of
    objects overlap, its panoptic segments do not), and else the segments of its things.

    Args:
        dataset_name: a registered data set with thing classes, whose records have
            `pan_seg_file_name` and `segments_info`. With a `json_file`, also
            `thing_dataset_id_to_contiguous_id`, which may skip numbers.
        output_folder, faster: see `COCOInstanceEvaluator`.
    """

    def _read_annotations(self) -> None:
        super()._read_annotations()
        # Read now, so that a file that cannot be used is an error before training.
        self._instances = self._instances_of_file() if comm.is_main_process() else None

    def _evaluated_classes(self) -> dict[int, str]:
        classes = enumerate(Vocabulary.from_metadata(self._metadata).classes)
        return {index: entry.name for index, entry in classes if entry.kind == "thing"}

    def _select(self, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [instance for instance in instances if instance["category_id"] in self._classes]

    def ground_truth(self) -> GroundTruth:
        """Return the things of all images, see the class."""
        truth = GroundTruth()
        with read_by(reading_rules_of(self._dataset_name)):
            for record in self._records:
                if self._instances is not None:
                    truth.add(record, self._instances.get(record["image_id"], ()))
                elif "segments_info" in record:
                    truth.add(record, panoptic_objects(record, self._classes))
                else:
                    truth.add(record, record.get("annotations") or ())
        return truth

    def _instances_of_file(self) -> dict[Any, list[dict[str, Any]]] | None:
        """Return the objects of the `json_file` by image id; None without such a file."""
        json_file = self._metadata.get("json_file")
        contiguous_ids = self._metadata.get("thing_dataset_id_to_contiguous_id")
        if not json_file or not contiguous_ids or not len(self._records):
            return None
        image_root = self._metadata.get("image_root") or os.path.dirname(
            self._records[0]["file_name"]
        )
        records = load_coco_instances(json_file, image_root, dict(contiguous_ids))
        instances = {record["image_id"]: record["annotations"] for record in records}
        if not any(record["image_id"] in instances for record in self._records):
            raise InputError(
                f"{json_file}: no image has the id of an image of the data set "
                f"{self._dataset_name}, whose json_file it is (ids of the data set: "
                f"{self._records[0]['image_id']!r}, ...)"
            )
        return instances


def _class_ap50(coco_eval: COCOeval, names: Sequence[str]) -> dict[str, float]:
    """Return `AP50-<class>` of every class in percent, NaN for those without an object."""
    # Axes: IoU threshold, recall, class, area range, detections an image.
    (threshold,) = np.flatnonzero(np.isclose(coco_eval.params.iouThrs, 0.5))
    precisions = coco_eval.eval["precision"][threshold, :, :, 0, -1]
    scores = {}
    for index, name in enumerate(names):
        known = precisions[:, index][precisions[:, index] > -1]
        scores[f"AP50-{name}"] = 100.0 * float(known.mean()) if known.size else math.nan
    return scores
