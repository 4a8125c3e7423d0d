"""Evaluator of generalised referring segmentation: gRefCOCO."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.structures import Instances
from numpy.typing import NDArray

from hipie.data.io.rle import RLE
from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.metrics.averages import from_fixed_point, ratio, to_fixed_point
from hipie.evaluation.metrics.expression_iou import OverlapCounts, mask_overlap
from hipie.evaluation.metrics.no_target import NoTargetThresholds, no_target_curve
from hipie.evaluation.referring_base import ALL, ExpressionEvaluator
from hipie.evaluation.results_io import write_json

PRECISION_THRESHOLDS = (0.7, 0.8, 0.9)


class GeneralizedReferringEvaluator(ExpressionEvaluator):
    """gIoU, cIoU, N-acc, T-acc and Pr@0.7 ... 0.9 (Liu et al., CVPR 2023), in percent.

    An empty mask predicts that there is no target. gIoU is the mean IoU over all expressions, where
    an expression without target counts 1 if its mask is empty, else 0; cIoU is the sum of
    intersections over the sum of unions; N-acc is the fraction of empty masks among expressions
    without target, T-acc that of non-empty masks among the others; Pr@X is the fraction of
    expressions with a target whose IoU is at least X. A score without expressions is NaN.

    Outputs as for `ExpressionEvaluator`, with `scores` [n] where there is a threshold.

    Args:
        dataset_name, distributed, result_name, resized_to: as for `ExpressionEvaluator`.
        no_target_threshold: an expression whose best score is lower has an empty mask. The results
            then also have the threshold with the best gIoU on the data set, with its N-acc and
            T-acc. None = the model has decided.
        output_folder: where the scores of all thresholds are written, as
            `no_target_thresholds.json`; None = nowhere.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "grefer",
        resized_to: int | None = None,
        no_target_threshold: float | None = None,
        output_folder: str | None = None,
    ) -> None:
        self._thresholds: NoTargetThresholds | None = None
        if no_target_threshold is not None:
            self._thresholds = NoTargetThresholds(no_target_threshold)
            # The best query of every expression, whatever its score.
            self.requested_results = ("best_instances",)
        self._output_folder = output_folder
        super().__init__(dataset_name, distributed, result_name, resized_to)

    def reset(self) -> None:
        """Discard the expressions counted so far."""
        super().reset()
        if self._thresholds is not None:
            self._thresholds.reset()

    def evaluate(self) -> OrderedDict[str, dict[str, float]] | None:
        """Return the scores in percent; None on all but the first process."""
        results = super().evaluate()
        if self._thresholds is None:
            return results
        counts = sum_integers(self._thresholds.counts, self._distributed)
        if results is None or counts is None:
            return None
        results[self._result_name].update(self._thresholds.results(counts))
        if self._output_folder:
            path = Path(self._output_folder) / "no_target_thresholds.json"
            write_json(path, [scores._asdict() for scores in no_target_curve(counts)])
        return results

    def _accepted(
        self,
        expression: dict[str, Any],
        prediction: RLE | NDArray[Any],
        target: RLE | NDArray[Any],
        instances: Instances,
    ) -> RLE | NDArray[Any]:
        if self._thresholds is None or not instances.has("scores"):
            return prediction  # rejected by an empty mask
        score = float(instances.scores.max()) if len(instances) else 0.0
        overlap = mask_overlap(prediction, target)
        self._thresholds.count(overlap, score, has_target=bool(expression["targets"]))
        if score >= self._thresholds.threshold:
            return prediction
        return np.zeros(instances.image_size, dtype=bool)

    def _groups(self, expression: dict[str, Any]) -> tuple[str, ...]:
        return ("with target",) if expression["targets"] else ("without target",)

    def _mask_scores(self, counts: Mapping[str, OverlapCounts]) -> dict[str, float]:
        positive, negative = counts["with target"], counts["without target"]
        rejected = negative.expressions - negative.non_empty
        iou = from_fixed_point(positive.iou + to_fixed_point(rejected))
        scores = {
            "gIoU": ratio(iou, counts[ALL].expressions),
            "cIoU": counts[ALL].overall_iou(),
            "N-acc": ratio(rejected, negative.expressions),
            "T-acc": ratio(positive.non_empty, positive.expressions),
        }
        for threshold in PRECISION_THRESHOLDS:
            scores[f"Pr@{threshold}"] = positive.precision(threshold)
        return scores
