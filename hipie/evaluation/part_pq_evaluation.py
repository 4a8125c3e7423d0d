"""PartPQ over a data set."""

from __future__ import annotations

import math
from collections import OrderedDict, defaultdict
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.data.datasets.panoptic_parts import decode_uids
from hipie.data.datasets.part_classes import PartClass
from hipie.data.image_io import read_label_map
from hipie.evaluation.distributed import gather_lists
from hipie.evaluation.metrics.averages import mean_of_known
from hipie.evaluation.metrics.part_pq import ClassCounts, FoundSegment, image_counts


class PartPQEvaluator(DatasetEvaluator):
    """PartPQ over all classes, over those with parts and over those without, in percent.

    Classes that neither the truth nor a prediction shows do not enter a mean.

    Outputs are dicts with `panoptic_seg` (Detectron2's: a map and `segments_info`, where
    `category_id` is the position in the metadata's `part_pq_classes`) and `part_seg`: integers
    [H, W], the part of its class that a pixel shows, 0 = none, 255 = unknown.

    Args:
        dataset_name: a registered data set with `part_pq_classes` (`PartClass`) in its metadata,
            whose records have `pan_part_file_name`, a label map that `decode_uids` takes apart.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    protocol = "segments match above IoU 0.5; parts by their mean IoU inside a match"

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "part_pq"
    ) -> None:
        self._classes: list[PartClass] = list(MetadataCatalog.get(dataset_name).part_pq_classes)
        self._files = {
            record["file_name"]: record["pan_part_file_name"]
            for record in DatasetCatalog.get(dataset_name)
        }
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts: list[list[ClassCounts]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Compare the images of a batch.

        Raises:
            ValueError: naming the label map, if it cannot be read, is of another size, or has no
                answer.
        """
        for item, output in zip(inputs, outputs, strict=True):
            path = self._files[item["file_name"]]
            truth = decode_uids(read_label_map(path))
            for key in ("panoptic_seg", "part_seg"):
                if key not in output:
                    raise ValueError(
                        f'{path}: the answer has no "{key}", which PartPQ is counted of'
                    )
            segments, info = output["panoptic_seg"]
            ids, parts = _array(segments), _array(output["part_seg"])
            for name, found in (("panoptic_seg", ids), ("part_seg", parts)):
                if found.shape != truth.classes.shape:
                    raise ValueError(
                        f"{path}: the label map has {truth.classes.shape} pixels, {name} "
                        f"{found.shape}"
                    )
            by_class: dict[int, list[FoundSegment]] = defaultdict(list)
            for one in info:
                by_class[one["category_id"]].append(FoundSegment(ids == one["id"], parts))
            self._counts.append(image_counts(truth, by_class, self._classes))

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        return OrderedDict({self._result_name: part_pq_scores(counts, self._classes)})


def part_pq_scores(images: list[list[ClassCounts]], classes: list[PartClass]) -> dict[str, float]:
    """PartPQ of all, with and without parts, then class by class, in percent."""
    each = []
    for place, _ in enumerate(classes):
        of_class = [counts[place] for counts in images]
        ious = [iou for one in of_class for iou in one.ious]
        unmatched = sum(one.false + one.missed for one in of_class)
        below = len(ious) + 0.5 * unmatched
        each.append(100.0 * math.fsum(ious) / below if below else math.nan)
    with_parts = [one.has_parts for one in classes]
    scores = {
        "PartPQ": mean_of_known(each),
        "PartPQ-parts": mean_of_known(v for v, has in zip(each, with_parts, strict=True) if has),
        "PartPQ-no-parts": mean_of_known(
            v for v, has in zip(each, with_parts, strict=True) if not has
        ),
    }
    names = [one.name for one in classes]
    return {**scores, **{f"PartPQ-{n}": v for n, v in zip(names, each, strict=True)}}


def _array(values: Any) -> np.ndarray:
    return values.cpu().numpy() if hasattr(values, "cpu") else np.asarray(values)
