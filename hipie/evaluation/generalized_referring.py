"""Generalised referring segmentation: sentences that mean one thing, several, or nothing."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from detectron2.evaluation import DatasetEvaluator

from hipie.evaluation.gathering import gather_lists
from hipie.evaluation.overlap import iou, overlap
from hipie.evaluation.referring import answer_mask, object_masks, target_mask

PRECISION_AT = (0.7, 0.8, 0.9)


class GeneralizedReferringEvaluator(DatasetEvaluator):
    """gIoU, cIoU, N-acc, T-acc and Pr@0.7 ... 0.9 (Liu et al., CVPR 2023), in percent.

    An empty answer says that nothing is meant. gIoU is the mean IoU over all sentences, where a
    sentence that means nothing counts 1 if its answer is empty, else 0; cIoU is the sum of
    intersections over the sum of unions; N-acc the share of empty answers among sentences that
    mean nothing, T-acc that of answers among the others; Pr@X the share of sentences with a target
    whose IoU is at least X. A score without a sentence to take it from is NaN.

    Args:
        dataset_name: a registered data set whose records have `sentences`.
        distributed: gather from all processes.
        result_name: the key of the results.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "grefer"
    ) -> None:
        self._records = {r["image_id"]: r for r in DatasetCatalog.get(dataset_name)}
        self._distributed = distributed
        self._result_name = result_name
        self.reset()

    def reset(self) -> None:
        """Forget everything counted so far."""
        self._counts: list[tuple[int, int, bool, bool]] = []

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        """Count the pixels of a batch; outputs as for `ReferringEvaluator`."""
        for item, output in zip(inputs, outputs, strict=True):
            record = self._records[item["image_id"]]
            objects = object_masks(record)
            for sentence, answer in zip(record["sentences"], output["referring"], strict=True):
                target = target_mask(objects, sentence, record)
                answered = answer_mask(answer, target.shape)
                self._counts.append(
                    (*overlap(answered, target), bool(sentence["targets"]), bool(answered.any()))
                )

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """The scores in percent; None on all but the first process."""
        counts = gather_lists(self._counts, self._distributed)
        if counts is None:
            return None
        rows = np.array(counts, dtype=np.int64).reshape(-1, 4)
        both, either = rows[:, 0], rows[:, 1]
        meant, answered = rows[:, 2].astype(bool), rows[:, 3].astype(bool)
        each = np.where(meant, iou(both, either), ~answered)
        scores = {
            "gIoU": _share(each),
            "cIoU": 100.0 * float(both.sum() / max(either.sum(), 1)),
            "N-acc": _share(~answered[~meant]),
            "T-acc": _share(answered[meant]),
        }
        for threshold in PRECISION_AT:
            scores[f"Pr@{threshold}"] = _share(each[meant] >= threshold)
        return OrderedDict({self._result_name: scores})


def _share(values: np.ndarray) -> float:
    return 100.0 * float(values.mean()) if len(values) else float("nan")
