"""Evaluator of semantic segmentation: Detectron2's mIoU, summed without pickling."""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import MetadataCatalog
from detectron2.evaluation import SemSegEvaluator
from numpy.typing import NDArray
from tabulate import tabulate

from hipie.data.annotation_maps import read_class_map, semantic_of_panoptic
from hipie.data.broken_images import reading_rules_of
from hipie.data.io.reading_rules import read_by
from hipie.data.label_values import background_index, ignore_label
from hipie.data.record_list import RecordList, read_records
from hipie.errors import InputError
from hipie.evaluation.distributed import gather_file, gather_sum
from hipie.evaluation.metrics.background import (
    BackgroundThresholds,
    best_named_class,
    threshold_curve,
)
from hipie.evaluation.results_io import JSONList, write_json
from hipie.logs import get_logger
from hipie.structures import SemanticLabels
from hipie.vocabularies.vocabulary import Vocabulary

# Scores of a class in Detectron2's results, and their names in the table.
CLASS_SCORES = {
    "IoU": "IoU",
    "BoundaryIoU": "boundary IoU",
    "min(IoU, B-Iou)": "smaller of both",
    "ACC": "accuracy",
}
MEANS = ("mIoU", "fwIoU", "mACC", "pACC")
SPOOL_BYTES = 1 << 24
PREDICTIONS_FILE = "sem_seg_predictions.json"
MAX_BOUNDARY_CLASSES = 254
"""Detectron2 computes boundary IoU on label maps of uint8."""


class SemanticEvaluator(SemSegEvaluator):
    """Detectron2's `SemSegEvaluator`, whose processes keep counts only and share the records.

    Of a data set with a `background_class` (see `background_index`) the outputs have the other
    classes only; a pixel whose best score is below a threshold is background, which counts as a
    class. The mean IoU of other thresholds is written to `background_thresholds.json`.

    Predictions go to a temporary file as they come, and from there into `sem_seg_predictions.json`
    in the output folder; without an output folder they are not encoded.

    Args:
        dataset_name: a registered data set with `stuff_classes` or a `vocabulary`, whose records
            have `sem_seg_file_name` or a panoptic map. Its `ignore_label` is 255 by default.
        output_folder: where predictions are written; None = nowhere.
        distributed: sum the counts of all processes.
        background_threshold: `MODEL.HIPIE.TEST.BACKGROUND_THRESHOLD`.
        unseen_classes: names of classes that were not trained. Where there are any, the results
            have the mean IoUs of seen and unseen classes and their harmonic mean as well.
    """

    def __init__(
        self,
        dataset_name: str,
        output_folder: str | None = None,
        *,
        distributed: bool = True,
        background_threshold: float = 0.5,
        unseen_classes: Collection[str] = (),
    ) -> None:
        # Not Detectron2's constructor, which reads the data set in every process.
        self._logger = get_logger(__name__)
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_folder
        self._cpu_device = torch.device("cpu")
        self.input_file_to_gt_file = _Records(read_records(dataset_name, distributed=distributed))
        metadata = MetadataCatalog.get(dataset_name)
        ids = metadata.get("stuff_dataset_id_to_contiguous_id")
        self._contiguous_id_to_dataset_id = ids and {index: i for i, index in ids.items()}
        names = metadata.get("stuff_classes") or Vocabulary.from_metadata(metadata).names
        self._class_names = list(names)
        self._num_classes = len(names)
        background = background_index(metadata, self._class_names)
        self._background = None
        if background is not None:
            self._background = BackgroundThresholds(
                self._num_classes, background, background_threshold
            )
        self._unseen = [name for name in self._class_names if name in unseen_classes]
        self._ignore_label = ignore_label(metadata)
        self._compute_boundary_iou = self._num_classes <= MAX_BOUNDARY_CLASSES
        self.sem_seg_loading_fn = self._read_label_map

    # Only the best class of a pixel counts: the scores of 1,203 classes take gigabytes.
    requested_results = ("sem_seg_labels",)

    def reset(self) -> None:
        """Discard the pixels counted so far."""
        super().reset()
        if self._background is not None:
            self._background.reset()
        self._conf_matrix: NDArray[Any] = self._conf_matrix
        self._b_conf_matrix: NDArray[Any] = self._b_conf_matrix
        self._spool = tempfile.SpooledTemporaryFile(SPOOL_BYTES)  # noqa: SIM115

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch, from `sem_seg_labels` or from `sem_seg` [K, H, W]."""
        keys = ["sem_seg_labels" if "sem_seg_labels" in output else "sem_seg" for output in outputs]
        maps: list[Any] = [output[key] for output, key in zip(outputs, keys, strict=True)]
        if self._background is not None:
            maps = [
                self._with_background(self._background, item, scores)
                for item, scores in zip(inputs, maps, strict=True)
            ]
        super().process(inputs, [{"sem_seg": scores} for scores in maps])

    def _with_background(
        self, background: BackgroundThresholds, item: dict[str, Any], scores: Any
    ) -> SemanticLabels:
        """Count the pixels of an image by their scores, and predict their classes."""
        named, best = best_named_class(scores)
        truth = self._read_label_map(self.input_file_to_gt_file[item["file_name"]])
        background.count(named, best, np.where(truth == self._ignore_label, -1, truth))
        labels = torch.from_numpy(background.labels(named, best))
        return SemanticLabels(labels, torch.from_numpy(best), torch.from_numpy(best))

    def encode_json_sem_seg(self, sem_seg: NDArray[Any], input_file_name: str) -> list[Any]:
        """Write the run lengths of an image to the temporary file, as JSON; return nothing."""
        if self._output_dir:
            for entry in super().encode_json_sem_seg(sem_seg, input_file_name):
                self._spool.write(f"{json.dumps(entry)}\n".encode())
        return []

    def _read_label_map(self, record: dict[str, Any], dtype: type = int) -> NDArray[Any]:
        """Read the label map of a record, or make it of its panoptic map.

        Raises:
            InputError: naming the file, if it has a value that is neither a class nor ignored.
        """
        with read_by(reading_rules_of(self._dataset_name)):
            if "sem_seg_file_name" not in record:
                return semantic_of_panoptic(record, self._ignore_label).astype(dtype)
            path = record["sem_seg_file_name"]
            labels: NDArray[Any] = read_class_map(path).astype(dtype)
        invalid = (labels != self._ignore_label) & ((labels < 0) | (labels >= self._num_classes))
        if invalid.any():
            raise InputError(
                f"{path}: the label map has the value {labels[invalid][0]}, but the data set "
                f"{self._dataset_name} has {self._num_classes} classes (0 to "
                f"{self._num_classes - 1}; {self._ignore_label} is ignored)"
            )
        return labels

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent, the means first; None on all but the first process."""
        matrix = gather_sum(self._conf_matrix, self._distributed)
        boundary_matrix = gather_sum(self._b_conf_matrix, self._distributed)
        background = self._background
        counts = None
        if background is not None:
            counts = gather_sum(background.counts, self._distributed)
        predictions = JSONList()
        if self._output_dir:
            gather_file(self._spool, predictions.add, self._distributed)
        if matrix is None or boundary_matrix is None:
            return None
        self._conf_matrix, self._b_conf_matrix = matrix, boundary_matrix
        # What is left of Detectron2's method: the scores of this process, which has all counts.
        distributed, self._distributed = self._distributed, False
        # It logs all scores in one line of thousands of characters; here is a table instead.
        shown, self._logger = self._logger, logging.Logger("", logging.CRITICAL)
        try:
            results: OrderedDict[str, dict[str, float]] = super().evaluate()
        finally:
            self._distributed, self._logger = distributed, shown
        if self._output_dir:
            predictions.write(os.path.join(self._output_dir, PREDICTIONS_FILE))
        scores = results["sem_seg"]
        means = {name: scores.pop(name) for name in MEANS}
        if self._unseen:
            means |= generalized_zero_shot(self._class_names, scores, self._unseen)
        if background is not None and counts is not None:
            means |= background.results(counts)
            if self._output_dir:
                curve = threshold_curve(counts, background.background)
                path = Path(self._output_dir) / "background_thresholds.json"
                write_json(path, [{"threshold": at, "mIoU": miou} for at, miou in curve])
        self._logger.info(
            "Scores of the %d classes of %s in percent:\n%s",
            self._num_classes,
            self._dataset_name,
            class_table(self._class_names, scores),
        )
        return OrderedDict(sem_seg={**means, **scores})


def generalized_zero_shot(
    names: Sequence[str], scores: Mapping[str, float], unseen: Collection[str]
) -> dict[str, float]:
    """Compute mean IoUs of seen and unseen classes, and their harmonic mean.

    Xian, Choudhury, He, Schiele, Akata, "Semantic Projection Network for Zero- and Few-Label
    Semantic Segmentation", CVPR 2019.

    Args:
        names: of all classes.
        scores: IoUs in percent by `IoU-class`; classes without pixels have nan and do not count.
        unseen: names of the classes that were not trained.

    Returns:
        `mIoU-seen`, `mIoU-unseen` and `hIoU` in percent; nan where no class of a kind has pixels.
    """
    means = []
    for is_unseen in (False, True):
        values = [scores[f"IoU-{name}"] for name in names if (name in unseen) == is_unseen]
        counted = [value for value in values if not math.isnan(value)]
        means.append(sum(counted) / len(counted) if counted else math.nan)
    seen, other = means
    total = seen + other
    harmonic = 0.0 if total == 0 else 2 * seen * other / total
    return {"mIoU-seen": seen, "mIoU-unseen": other, "hIoU": harmonic}


def class_table(names: Sequence[str], scores: Mapping[str, float]) -> str:
    """Return a table of the classes as text, one line a class.

    Args:
        names: of the classes.
        scores: numbers in percent by `score-class`, as Detectron2's evaluator returns them. Scores
            that no class has are left out; of a class without the number there is a dash.
    """
    known = [kind for kind in CLASS_SCORES if any(f"{kind}-{name}" in scores for name in names)]
    rows = [[name, *(_cell(scores.get(f"{kind}-{name}")) for kind in known)] for name in names]
    headers = ["class", *(CLASS_SCORES[kind] for kind in known)]
    return tabulate(rows, headers, "simple", colalign=("left", *("right" for _ in known)))


def _cell(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.2f}"


class _Records:
    """Mapping from the file of an image to its record."""

    def __init__(self, records: RecordList) -> None:
        self._records = records

    def __getitem__(self, file_name: str) -> dict[str, Any]:
        return self._records.of_file(file_name)
