"""Generalised referring segmentation: sentences that mean one thing, several, or nothing."""

from __future__ import annotations

from typing import Any

import numpy as np

from hipie.evaluation.overlap import iou, overlap
from hipie.evaluation.referring import SentenceEvaluator

PRECISION_AT = (0.7, 0.8, 0.9)


class GeneralizedReferringEvaluator(SentenceEvaluator):
    """gIoU, cIoU, N-acc, T-acc and Pr@0.7 ... 0.9 (Liu et al., CVPR 2023), in percent.

    An empty answer says that nothing is meant. gIoU is the mean IoU over all sentences, where a
    sentence that means nothing counts 1 if its answer is empty, else 0; cIoU is the sum of
    intersections over the sum of unions; N-acc the share of empty answers among sentences that
    mean nothing, T-acc that of answers among the others; Pr@X the share of sentences with a target
    whose IoU is at least X. A score without a sentence to take it from is NaN.

    Outputs and arguments as for `SentenceEvaluator`.
    """

    def __init__(
        self, dataset_name: str, distributed: bool = True, result_name: str = "grefer"
    ) -> None:
        super().__init__(dataset_name, distributed, result_name)

    def _count(
        self, sentence: dict[str, Any], answered: np.ndarray, target: np.ndarray
    ) -> tuple[int, int, bool, bool]:
        return (*overlap(answered, target), bool(sentence["targets"]), bool(answered.any()))

    def _scores(self, counts: list[tuple[int, int, bool, bool]]) -> dict[str, float]:
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
        return scores


def _share(values: np.ndarray) -> float:
    return 100.0 * float(values.mean()) if len(values) else float("nan")
