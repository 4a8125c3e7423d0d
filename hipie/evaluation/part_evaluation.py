"""Evaluator of part segmentation: mean IoU over part phrases."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.data.annotation_maps import read_class_map
from hipie.data.broken_images import reading_rules_of
from hipie.data.io.reading_rules import read_by
from hipie.data.label_values import background_index, offset_part_labels
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_sum
from hipie.evaluation.metrics.background import BackgroundThresholds, best_named_class
from hipie.evaluation.metrics.part_iou import (
    class_ious,
    confusion_matrix,
    group_confusion_matrix,
    mean_iou,
    part_consistency,
)


class PartEvaluator(DatasetEvaluator):
    """mIoU of the highest-scored phrase of each pixel against label maps of parts, in percent.

    Outputs are dicts with `sem_seg_labels` (`SemanticLabels`) or `sem_seg` [K, H, W], in the order
    of the data set's phrases. Pixels with the label 0 are ignored. The mean is over phrases in the
    ground truth; a phrase that is only predicted is not in the mean, but its pixels are missing
    from the correct phrases.

    Where the metadata has `part_groups` (a group for every phrase, -1 = ignore), prediction and
    ground truth are also compared as groups: `mIoU_grouped`, MIoU-PartS of the papers. Where it has
    `part_wholes` (the whole of every phrase that is a part), `mIoU_parts` is the mean over parts,
    and `inside_whole` is their consistency, see `part_consistency`.

    Of a data set with a `background_class` (see `background_index`) the outputs have the other
    classes only, and a pixel whose best score is below a threshold is background.

    Args:
        dataset_name: a registered data set whose records have `part_seg_file_name`.
        distributed: sum the counts of all processes.
        background_threshold: `MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD`.
        result_name: key of the results.
    """

    requested_results = ("sem_seg_labels",)
    protocol = "one phrase a pixel, pixels of all images together; label 0 is ignored"

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "parts",
        background_threshold: float = 0.5,
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._rules = reading_rules_of(dataset_name)
        metadata = MetadataCatalog.get(dataset_name)
        self._names = list(metadata.stuff_classes)
        background = background_index(metadata, self._names)
        self._background = None
        if background is not None:
            self._background = BackgroundThresholds(
                len(self._names), background, background_threshold
            )
        self._part_ignore_label = metadata.get("part_ignore_label")
        self._groups = metadata.get("part_groups")
        self._wholes = metadata.get("part_wholes", {})
        self._is_part = [name in self._wholes for name in self._names]
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the pixels counted so far."""
        self._matrix = np.zeros((len(self._names), len(self._names)), dtype=np.int64)
        if self._background is not None:
            self._background.reset()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: naming the label map, if its size is not the prediction's.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records.of_file(item["file_name"])
            path = record["part_seg_file_name"]
            scores = output["sem_seg_labels" if "sem_seg_labels" in output else "sem_seg"]
            predicted = scores.argmax(dim=0).cpu().numpy()
            with read_by(self._rules):
                labels = offset_part_labels(read_class_map(path), self._part_ignore_label)
            truth = labels.astype(np.int64) - 1
            if truth.max(initial=-1) >= len(self._names):
                raise InputError(
                    f"{path}: the part map has the class index {truth.max()}, but the data set has "
                    f"{len(self._names)} classes"
                )
            if truth.shape != predicted.shape:
                raise InputError(
                    f"{path}: the label map has {truth.shape} pixels, the prediction "
                    f"{predicted.shape}"
                )
            if self._background is not None:
                named, best = best_named_class(scores)
                self._background.count(named, best, truth)
                predicted = self._background.labels(named, best)
            self._matrix += confusion_matrix(predicted, truth, len(self._names))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        matrix = gather_sum(self._matrix, self._distributed)
        background = self._background
        counts = None
        if background is not None:
            counts = gather_sum(background.counts, self._distributed)
        if matrix is None:
            return None
        ious = class_ious(matrix)
        scores = {"mIoU": mean_iou(ious)}
        if any(self._is_part):
            scores["mIoU_parts"] = mean_iou(ious[self._is_part])
            scores["inside_whole"] = part_consistency(matrix, self._names, self._wholes)
        if self._groups is not None:
            grouped = group_confusion_matrix(matrix, self._groups)
            scores["mIoU_grouped"] = mean_iou(class_ious(grouped))
        if background is not None and counts is not None:
            scores |= background.results(counts)
        for name, iou in zip(self._names, ious, strict=True):
            scores[f"IoU-{name}"] = 100.0 * float(iou)
        return OrderedDict({self._result_name: scores})
