"""Evaluators of COCO's box and mask AP."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata
from detectron2.evaluation import COCOEvaluator
from detectron2.evaluation.coco_evaluation import (
    _evaluate_predictions_on_coco,
    instances_to_coco_json,
)
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval

from hipie.data.dataset_mappers.annotations import decode_mask
from hipie.errors import InputError
from hipie.evaluation.instance_predictions import InstancePredictions

logger = logging.getLogger(__name__)


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
    """Detectron2's `COCOEvaluator` of boxes and masks, with the choice of the COCO API.

    Predictions are kept and gathered as arrays (`InstancePredictions`), and only the process that
    evaluates them reads the annotations.

    Args:
        dataset_name: a registered data set with a `json_file`.
        output_folder: where predictions are written; None = nowhere.
        faster: use faster-coco-eval instead of pycocotools.
    """

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, faster: bool = False
    ) -> None:
        self._coco_eval = load_faster_coco_eval() if faster else COCOeval
        self._distributed = True
        self._cpu_device = torch.device("cpu")
        self._metadata = MetadataCatalog.get(dataset_name)
        if comm.is_main_process():
            with logged_prints():
                super().__init__(
                    dataset_name,
                    tasks=("bbox", "segm"),
                    output_dir=output_folder,
                    use_fast_impl=False,
                )
            self._prepare_annotations(dataset_name)

    def _prepare_annotations(self, dataset_name: str) -> None:
        """Check or change `self._coco_api`; called on the first process only."""

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
        self._restore_category_ids(results)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            with open(path, "w") as file:
                json.dump(results, file)
        if not self._do_evaluation:
            return
        class_names = self._metadata.get("thing_classes")
        for task in sorted(self._tasks):
            coco_eval = None
            if results:
                coco_eval = _evaluate_predictions_on_coco(
                    self._coco_api,
                    results,
                    task,
                    cocoeval_fn=self._coco_eval,
                    img_ids=img_ids,
                    max_dets_per_image=self._max_dets_per_image,
                )
            self._results[task] = self._derive_coco_results(coco_eval, task, class_names)

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


class FilteredCOCOEvaluator(COCOInstanceEvaluator):
    """COCO AP over exactly the annotations that the data set's reader keeps.

    pycocotools fails on annotations without polygon vertices or without an `area`, and never
    matches the one whose id is 0; here the first are dropped, as in training, missing areas are
    computed, and annotations are numbered from 1. A file may have fewer categories than there are
    classes in the vocabulary, as those of ODinW have.

    Args:
        dataset_name: a registered data set with a `json_file`, whose records have `annotations`
            with `id`.
        output_folder, faster: see `COCOInstanceEvaluator`.
    """

    def _prepare_annotations(self, dataset_name: str) -> None:
        kept_annotations = {
            a["id"]: (a, record)
            for record in DatasetCatalog.get(dataset_name)
            for a in record["annotations"]
        }
        content = self._coco_api.dataset
        completed = [
            _complete_annotation(annotation, *kept_annotations[annotation["id"]])
            for annotation in content["annotations"]
            if annotation["id"] in kept_annotations
        ]
        content["annotations"] = [{**a, "id": number} for number, a in enumerate(completed, 1)]
        with contextlib.redirect_stdout(io.StringIO()):
            self._coco_api.createIndex()
        self._metadata = self._metadata_of_file()
        has_masks = all("segmentation" in annotation for annotation, _ in kept_annotations.values())
        self._tasks = ("bbox", "segm") if has_masks else ("bbox",)

    def _metadata_of_file(self) -> Metadata:
        """Return metadata with the names of the file's categories only, whose APs are reported."""
        contiguous_ids = self._metadata.thing_dataset_id_to_contiguous_id
        names = self._metadata.thing_classes
        return Metadata().set(
            thing_dataset_id_to_contiguous_id=contiguous_ids,
            thing_classes=[
                names[contiguous_ids[category]] if category in contiguous_ids else str(category)
                for category in sorted(self._coco_api.getCatIds())
            ],
        )


class PanopticInstanceEvaluator(COCOInstanceEvaluator):
    """COCO AP of the things of a panoptic data set whose classes are in any order.

    Detectron2's evaluator requires thing classes to come before stuff; those of ADE20K do not.

    Args:
        dataset_name: a registered data set with a `json_file` and
            `thing_dataset_id_to_contiguous_id`, which may skip numbers.
        output_folder, faster: see `COCOInstanceEvaluator`.
    """

    def _select(self, instances: list[dict[str, Any]]) -> list[dict[str, Any]]:
        thing_indices = set(self._metadata.thing_dataset_id_to_contiguous_id.values())
        return [instance for instance in instances if instance["category_id"] in thing_indices]


def _complete_annotation(
    annotation: dict[str, Any], kept_annotation: dict[str, Any], record: dict[str, Any]
) -> dict[str, Any]:
    """Return a file's annotation with the box and mask that the reader kept, and an area."""
    completed = {
        **annotation,
        "bbox": kept_annotation["bbox"],
        "iscrowd": kept_annotation["iscrowd"],
    }
    if "segmentation" in kept_annotation:
        completed["segmentation"] = kept_annotation["segmentation"]
    if "area" not in completed:
        completed["area"] = _annotation_area(kept_annotation, record)
    return completed


def _annotation_area(kept_annotation: dict[str, Any], record: dict[str, Any]) -> float:
    if "segmentation" not in kept_annotation:
        return float(kept_annotation["bbox"][2] * kept_annotation["bbox"][3])
    mask = decode_mask(kept_annotation["segmentation"], record["height"], record["width"])
    return float(mask.sum())
