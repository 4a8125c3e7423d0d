"""Evaluator of panoptic quality, from the records that training learns."""

from __future__ import annotations

import json
import os
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray

from hipie.data.annotation_maps import panoptic_ids, read_panoptic_map
from hipie.data.broken_images import reading_rules_of
from hipie.data.io.reading_rules import read_by
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_file, sum_integers
from hipie.evaluation.metrics.averages import from_fixed_point, mean
from hipie.evaluation.metrics.panoptic_quality import count_segments
from hipie.evaluation.results_io import SPOOL_BYTES, JSONList
from hipie.vocabularies.vocabulary import Vocabulary

PREDICTIONS_FILE = "predictions.json"
GROUPS = {"": ("thing", "stuff"), "_th": ("thing",), "_st": ("stuff",)}
"""Suffix of the metrics -> kinds of the classes that are averaged."""


class PanopticEvaluator(DatasetEvaluator):
    """PQ, SQ and RQ over all classes, over things and over stuff, in percent.

    The numbers are panopticapi's, but areas are counted from the maps, classes may all be of one
    kind (the means of the other are NaN), and neither a file in COCO's format nor ids of its
    categories are needed. Only counts are kept of an image.

    Outputs are dicts with `panoptic_seg`, as Detectron2's: a map of ids and `segments_info`, whose
    `category_id` is a class index; or None, and the map holds class index * `label_divisor` +
    number, -1 where there is no segment.

    Args:
        dataset_name: a registered data set whose records have `pan_seg_file_name` and
            `segments_info`, with names of classes in its metadata.
        output_folder: where `segments_info` of all predictions are written in COCO's format;
            None = nowhere.
        distributed: sum the counts of all processes.
    """

    requested_results = ("panoptic_seg",)

    def __init__(
        self, dataset_name: str, output_folder: str | None = None, *, distributed: bool = True
    ) -> None:
        self._dataset_name = dataset_name
        self._records = read_records(dataset_name, distributed=distributed)
        metadata = MetadataCatalog.get(dataset_name)
        vocabulary = Vocabulary.from_metadata(metadata)
        self._kinds = vocabulary.kinds
        self._label_divisor = metadata.get("label_divisor")
        self._category_ids = {
            index: category
            for key in ("stuff_dataset_id_to_contiguous_id", "thing_dataset_id_to_contiguous_id")
            for category, index in (metadata.get(key) or {}).items()
        }
        self._output_folder = output_folder
        self._distributed = distributed
        self.reset()

    def reset(self) -> None:
        """Discard the images counted so far."""
        # Of each class: matches, sum of their IoUs, false positives, false negatives.
        self._counts = {str(index): [0, 0, 0, 0] for index in range(len(self._kinds))}
        self._spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Match the segments of a batch.

        Raises:
            InputError: naming the panoptic map, if it cannot be read or has another size than the
                prediction; naming the data set, if a prediction has an unknown class.
        """
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records.of_image(item["image_id"])
            path = record["pan_seg_file_name"]
            predicted, segments = self._prediction(*output["panoptic_seg"])
            with read_by(reading_rules_of(self._dataset_name)):
                truth = panoptic_ids(read_panoptic_map(path))
            if truth.shape != predicted.shape:
                raise InputError(
                    f"{path}: the panoptic map has {truth.shape[1]}x{truth.shape[0]} pixels, the "
                    f"prediction {predicted.shape[1]}x{predicted.shape[0]} pixels"
                )
            counts = count_segments(truth, record["segments_info"], predicted, segments)
            for index, count in counts.items():
                sums = self._counts.get(str(index))
                if sums is None:
                    raise InputError(
                        f"{path}: a segment has the class index {index}, but the data set "
                        f"{self._dataset_name} has {len(self._kinds)} classes"
                    )
                for position, value in enumerate(vars(count).values()):
                    sums[position] += value
            if self._output_folder:
                self._write(item, segments)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        counts = sum_integers(self._counts, self._distributed)
        predictions = JSONList()
        if self._output_folder:
            gather_file(self._spool, predictions.add, self._distributed)
        if counts is None:
            return None
        if self._output_folder:
            path = os.path.join(self._output_folder, PREDICTIONS_FILE)
            predictions.write(path, b'{"annotations": ', b"}")
        rows = [counts[str(index)] for index in range(len(self._kinds))]
        return OrderedDict(panoptic_seg=panoptic_scores(rows, self._kinds))

    def _prediction(
        self, panoptic: Any, segments: list[dict[str, Any]] | None
    ) -> tuple[NDArray[Any], list[dict[str, Any]]]:
        """Return ids [H, W] with 0 for void, and segments with `id` and `category_id`."""
        ids = panoptic.cpu().numpy() if hasattr(panoptic, "cpu") else np.asarray(panoptic)
        if segments is not None:
            return ids, [dict(segment) for segment in segments]
        if self._label_divisor is None:
            raise InputError(
                f"the data set {self._dataset_name} has no label_divisor in its metadata, by which "
                "a panoptic map without segments_info is read"
            )
        labels = [int(label) for label in np.unique(ids) if label != -1]
        return ids + 1, [
            {"id": label + 1, "category_id": label // self._label_divisor} for label in labels
        ]

    def _write(self, item: dict[str, Any], segments: list[dict[str, Any]]) -> None:
        """Write the segments of an image to the temporary file, as a line of JSON."""
        entry = {
            "image_id": item["image_id"],
            "file_name": f"{Path(item['file_name']).stem}.png",
            "segments_info": [
                {
                    "id": int(segment["id"]),
                    "category_id": self._category_ids.get(
                        segment["category_id"], int(segment["category_id"])
                    ),
                }
                for segment in segments
            ],
        }
        self._spool.write(f"{json.dumps(entry)}\n".encode())


def panoptic_scores(counts: Sequence[Sequence[int]], kinds: Collection[str]) -> dict[str, float]:
    """Average PQ, SQ and RQ of the classes with a segment, in percent; NaN without any.

    Args:
        counts: of each class matches, sum of their IoUs by `to_fixed_point`, false positives and
            false negatives.
        kinds: of each class "thing", "stuff" or "part".
    """
    scores: dict[str, float] = {}
    for suffix, selected in GROUPS.items():
        values = [
            _qualities(*row)
            for row, kind in zip(counts, kinds, strict=True)
            if kind in selected and row[0] + row[2] + row[3] > 0
        ]
        for position, name in enumerate(("PQ", "SQ", "RQ")):
            scores[name + suffix] = 100 * mean(value[position] for value in values)
    return scores


def _qualities(matches: int, iou: int, fp: int, fn: int) -> tuple[float, float, float]:
    """Return PQ, SQ and RQ of a class, 0..1."""
    total = from_fixed_point(iou)
    denominator = matches + 0.5 * (fp + fn)
    return total / denominator, total / matches if matches else 0.0, matches / denominator
