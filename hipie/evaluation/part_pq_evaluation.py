"""Evaluator of part-aware panoptic quality (PartPQ)."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.broken_images import reading_rules_of
from hipie.data.datasets.panoptic_parts import PartClass, decode_uids
from hipie.data.image_io import read_label_map
from hipie.data.io.reading_rules import read_by
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.metrics.averages import from_fixed_point, nanmean, to_fixed_point
from hipie.evaluation.metrics.part_pq import PredictedSegment, count_image


class PartPQEvaluator(DatasetEvaluator):
    """PartPQ over all classes, over those with parts and over those without, in percent.

    Classes that are in neither the ground truth nor the predictions are not in the means.

    Outputs are dicts with `panoptic_seg` (Detectron2's: a map and `segments_info`, where
    `category_id` is the position in the metadata's `part_pq_classes`) and `part_seg`: integers
    [H, W], the part of its class that a pixel belongs to, 0 = none, 255 = unknown.

    Args:
        dataset_name: a registered data set with `part_pq_classes` (`PartClass`) in its metadata,
            whose records have `pan_part_file_name`, a label map for `decode_uids`.
        distributed: sum the counts of all processes.
        result_name: key of the results.
    """

    protocol = "segments match above IoU 0.5; parts by their mean IoU inside a match"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "part_pq"
    ) -> None:
        self._records = read_records(dataset_name, distributed=distributed)
        self._rules = reading_rules_of(dataset_name)
        self._classes: list[PartClass] = list(MetadataCatalog.get(dataset_name).part_pq_classes)
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the images counted so far."""
        # Of each class: matches, sum of their IoUs by `to_fixed_point`, unmatched segments.
        self._counts = {str(index): [0, 0, 0] for index in range(len(self._classes))}

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match the segments of a batch.

        Raises:
            ValueError: naming the label map, if it cannot be read, is of another size, or an
                output is missing.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records.of_file(item["file_name"])
            path = record["pan_part_file_name"]
            with read_by(self._rules):
                truth = decode_uids(read_label_map(path))
            for key in ("panoptic_seg", "part_seg"):
                if key not in output:
                    raise InputError(f'{path}: PartPQ needs the output "{key}", which is missing')
            panoptic, segments_info = output["panoptic_seg"]
            ids, parts = _to_array(panoptic), _to_array(output["part_seg"])
            for name, array in (("panoptic_seg", ids), ("part_seg", parts)):
                if array.shape != truth.classes.shape:
                    raise InputError(
                        f"{path}: the label map has {truth.classes.shape} pixels, {name} "
                        f"{array.shape}"
                    )
            segments_by_class: dict[int, list[PredictedSegment]] = defaultdict(list)
            for segment in segments_info:
                segments_by_class[segment["category_id"]].append(
                    PredictedSegment(ids == segment["id"], parts)
                )
            counts = count_image(truth, segments_by_class, self._classes)
            for sums, class_counts in zip(self._counts.values(), counts, strict=True):
                sums[0] += len(class_counts.ious)
                sums[1] += sum(map(to_fixed_point, class_counts.ious))
                sums[2] += class_counts.false_positives + class_counts.false_negatives

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        counts = sum_integers(self._counts, self._distributed)
        if counts is None:
            return None
        pq = [_part_pq(*counts[str(index)]) for index in range(len(self._classes))]
        return OrderedDict({self._result_name: part_pq_scores(pq, self._classes)})


def part_pq_scores(pq: Sequence[float], classes: Sequence[PartClass]) -> dict[str, float]:
    """Average the PartPQ of all classes, of those with and without parts, and list each.

    Args:
        pq: of each class, in percent; NaN where a class has no segments.
        classes: evaluated classes.
    """
    has_parts = [part_class.has_parts for part_class in classes]
    scores = {
        "PartPQ": nanmean(pq),
        "PartPQ-parts": nanmean(v for v, has in zip(pq, has_parts, strict=True) if has),
        "PartPQ-no-parts": nanmean(v for v, has in zip(pq, has_parts, strict=True) if not has),
    }
    for part_class, value in zip(classes, pq, strict=True):
        scores[f"PartPQ-{part_class.name}"] = value
    return scores


def _part_pq(matches: int, iou: int, unmatched: int) -> float:
    """Compute the PartPQ of one class from its sums, in percent; NaN without segments."""
    denominator = matches + 0.5 * unmatched
    return 100.0 * from_fixed_point(iou) / denominator if denominator else math.nan


def _to_array(values: Any) -> NDArray[Any]:
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
