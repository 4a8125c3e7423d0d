"""Evaluator of part segmentation: mean IoU over part phrases."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.data.annotation_maps import read_class_map
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_sum
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

    Args:
        dataset_name: a registered data set whose records have `part_seg_file_name`.
        distributed: sum the counts of all processes.
        result_name: key of the results.
    """

    requested_results = ("sem_seg_labels",)
    protocol = "one phrase a pixel, pixels of all images together; label 0 is ignored"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "parts"
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        metadata = MetadataCatalog.get(dataset_name)
        self._names = list(metadata.stuff_classes)
        self._groups = metadata.get("part_groups")
        self._wholes = metadata.get("part_wholes", {})
        self._is_part = [name in self._wholes for name in self._names]
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the pixels counted so far."""
        self._matrix = np.zeros((len(self._names), len(self._names)), dtype=np.int64)

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
            truth = read_class_map(path).astype(np.int64) - 1
            if truth.shape != predicted.shape:
                raise InputError(
                    f"{path}: the label map has {truth.shape} pixels, the prediction "
                    f"{predicted.shape}"
                )
            self._matrix += confusion_matrix(predicted, truth, len(self._names))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        matrix = gather_sum(self._matrix, self._distributed)
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
        for name, iou in zip(self._names, ious, strict=True):
            scores[f"IoU-{name}"] = 100.0 * float(iou)
        return OrderedDict({self._result_name: scores})
