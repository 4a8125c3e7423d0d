"""Evaluator of part-aware panoptic quality (PartPQ)."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.datasets.panoptic_parts import PartClass, decode_uids
from hipie.data.image_io import read_label_map
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.metrics.averages import nanmean
from hipie.evaluation.metrics.part_pq import ClassCounts, PredictedSegment, count_image


class PartPQEvaluator(DatasetEvaluator):
    """PartPQ over all classes, over those with parts and over those without, in percent.

    Classes that are in neither the ground truth nor the predictions are not in the means.

    Outputs are dicts with `panoptic_seg` (Detectron2's: a map and `segments_info`, where
    `category_id` is the position in the metadata's `part_pq_classes`) and `part_seg`: integers
    [H, W], the part of its class that a pixel belongs to, 0 = none, 255 = unknown.

    Args:
        dataset_name: a registered data set with `part_pq_classes` (`PartClass`) in its metadata,
            whose records have `pan_part_file_name`, a label map for `decode_uids`.
        distributed: gather the counts of all processes.
        result_name: key of the results.
    """

    protocol = "segments match above IoU 0.5; parts by their mean IoU inside a match"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "part_pq"
    ) -> None:
        self._classes: list[PartClass] = list(MetadataCatalog.get(dataset_name).part_pq_classes)
        self._label_files = {
            record["file_name"]: record["pan_part_file_name"]
            for record in DatasetCatalog.get(dataset_name)
        }
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Discard the images counted so far."""
        self._counts: list[list[ClassCounts]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match the segments of a batch.

        Raises:
            ValueError: naming the label map, if it cannot be read, is of another size, or an
                output is missing.
        """
        for item, output in zip(inputs, outputs, strict=True):
            path = self._label_files[item["file_name"]]
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
            self._counts.append(count_image(truth, segments_by_class, self._classes))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        return OrderedDict({self._result_name: part_pq_scores(counts, self._classes)})


def part_pq_scores(
    images: Sequence[Sequence[ClassCounts]], classes: Sequence[PartClass]
) -> dict[str, float]:
    """Compute PartPQ of all classes, with and without parts, then class by class, in percent.

    Args:
        images: of each image, counts in the order of `classes`.
        classes: evaluated classes.
    """
    pq = [_part_pq([counts[index] for counts in images]) for index in range(len(classes))]
    has_parts = [part_class.has_parts for part_class in classes]
    scores = {
        "PartPQ": nanmean(pq),
        "PartPQ-parts": nanmean(v for v, has in zip(pq, has_parts, strict=True) if has),
        "PartPQ-no-parts": nanmean(v for v, has in zip(pq, has_parts, strict=True) if not has),
    }
    for part_class, value in zip(classes, pq, strict=True):
        scores[f"PartPQ-{part_class.name}"] = value
    return scores


def _part_pq(counts: Sequence[ClassCounts]) -> float:
    """Compute the PartPQ of one class over images, in percent; NaN without segments."""
    ious = [iou for image in counts for iou in image.ious]
    unmatched = sum(image.false_positives + image.false_negatives for image in counts)
    denominator = len(ious) + 0.5 * unmatched
    return 100.0 * math.fsum(ious) / denominator if denominator else math.nan


def _to_array(values: Any) -> NDArray[Any]:
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
