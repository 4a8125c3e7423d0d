"""Evaluator of clusters of pixels: mIoU after Hungarian matching with the classes of a data set.

The protocol of PiCIE (Cho et al., CVPR 2021) and STEGO (Hamilton et al., ICLR 2022): one matching
for the whole set, which maximises the number of correct pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from hipie.data.annotation_maps import read_class_map, semantic_of_panoptic
from hipie.data.broken_images import reading_rules_of
from hipie.data.io.reading_rules import read_by
from hipie.data.label_values import ignore_label
from hipie.data.record_list import read_records
from hipie.errors import InputError
from hipie.evaluation.build import EVALUATOR_REGISTRY
from hipie.evaluation.distributed import gather_sum
from hipie.vocabularies.vocabulary import Vocabulary


def match_clusters(confusion: NDArray[np.int64]) -> NDArray[np.int64]:
    """Match clusters to classes one to one, with the largest number of correct pixels.

    Args:
        confusion: [clusters, classes] numbers of pixels.

    Returns:
        [clusters] class of each cluster; -1 for clusters without one, if there are more clusters
        than classes.
    """
    rows, columns = linear_sum_assignment(confusion, maximize=True)
    classes = np.full(len(confusion), -1, np.int64)
    classes[rows] = columns
    return classes


def matched_scores(confusion: NDArray[np.int64]) -> dict[str, float]:
    """Compute mIoU and accuracy of matched clusters, in percent.

    Pixels of a cluster without a class are errors. Classes without a pixel, in truth and in
    predictions, do not count.

    Args:
        confusion: [clusters, classes] numbers of pixels.

    Returns:
        `mIoU`, `accuracy`, and `clusters`, the number of clusters with a pixel.
    """
    classes = match_clusters(confusion)
    matched = np.flatnonzero(classes >= 0)
    correct = np.zeros(confusion.shape[1])
    predicted = np.zeros(confusion.shape[1])
    correct[classes[matched]] = confusion[matched, classes[matched]]
    predicted[classes[matched]] = confusion[matched].sum(1)
    union = predicted + confusion.sum(0) - correct
    known = union > 0
    total = int(confusion.sum())
    return {
        "mIoU": 100.0 * float((correct[known] / union[known]).mean()) if known.any() else np.nan,
        "accuracy": 100.0 * float(correct.sum()) / total if total else np.nan,
        "clusters": int((confusion.sum(1) > 0).sum()),
    }


class ClusterEvaluator(DatasetEvaluator):
    """mIoU and accuracy of `sem_seg` [clusters, H, W] after one matching for the whole set.

    Args:
        dataset_name: a registered data set whose records have semantic or panoptic maps.
        distributed: sum the counts of all processes.
    """

    protocol = "clusters matched to classes once for the whole set (Hungarian)"
    requested_results = ("sem_seg",)

    def __init__(self, dataset_name: str, distributed: bool = True) -> None:
        self._dataset_name, self._distributed = dataset_name, distributed
        self._records = read_records(dataset_name, distributed=distributed)
        metadata = MetadataCatalog.get(dataset_name)
        names = metadata.get("stuff_classes") or Vocabulary.from_metadata(metadata).names
        self._num_classes, self._ignore_label = len(names), ignore_label(metadata)
        self.reset()

    def reset(self) -> None:
        """Discard the pixels counted so far."""
        self._confusion: NDArray[np.int64] = np.zeros((0, self._num_classes), np.int64)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch."""
        for item, output in zip(inputs, outputs, strict=True):
            scores = output["sem_seg"]
            if len(self._confusion) == 0:
                self._confusion = np.zeros((len(scores), self._num_classes), np.int64)
            labels = self._labels(self._records.of_image(item["image_id"])).astype(np.int64)
            known = (labels != self._ignore_label) & (labels >= 0) & (labels < self._num_classes)
            clusters = scores.argmax(0).cpu().numpy()
            index = clusters[known] * self._num_classes + labels[known]
            counts = np.bincount(index, minlength=self._confusion.size)
            self._confusion += counts.reshape(self._confusion.shape)

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        confusion = gather_sum(self._confusion, self._distributed)
        return None if confusion is None else OrderedDict(clusters=matched_scores(confusion))

    def _labels(self, record: dict[str, Any]) -> NDArray[Any]:
        with read_by(reading_rules_of(self._dataset_name)):
            if "sem_seg_file_name" in record:
                return read_class_map(record["sem_seg_file_name"])
            if "pan_seg_file_name" in record:
                return semantic_of_panoptic(record, self._ignore_label)
        raise InputError(
            f"the data set {self._dataset_name} has no semantic maps, which the evaluation of "
            "clusters needs"
        )


@EVALUATOR_REGISTRY.register()
def clusters(cfg: CfgNode, dataset_name: str, output_folder: str | None) -> DatasetEvaluator:
    """Build the evaluator of clusters of pixels."""
    return ClusterEvaluator(dataset_name)
