"""Evaluator of generalised referring segmentation: gRefCOCO."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hipie.evaluation.metrics.averages import from_fixed_point, ratio, to_fixed_point
from hipie.evaluation.metrics.expression_iou import OverlapCounts
from hipie.evaluation.referring_base import ALL, ExpressionEvaluator

PRECISION_THRESHOLDS = (0.7, 0.8, 0.9)


class GeneralizedReferringEvaluator(ExpressionEvaluator):
    """gIoU, cIoU, N-acc, T-acc and Pr@0.7 ... 0.9 (Liu et al., CVPR 2023), in percent.

    An empty mask predicts that there is no target. gIoU is the mean IoU over all expressions, where
    an expression without target counts 1 if its mask is empty, else 0; cIoU is the sum of
    intersections over the sum of unions; N-acc is the fraction of empty masks among expressions
    without target, T-acc that of non-empty masks among the others; Pr@X is the fraction of
    expressions with a target whose IoU is at least X. A score without expressions is NaN.

    Outputs and arguments as for `ExpressionEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "grefer",
        resized_to: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, resized_to)

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
