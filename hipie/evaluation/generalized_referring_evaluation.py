"""Evaluator of generalised referring segmentation: gRefCOCO."""

from __future__ import annotations

from typing import Any

from detectron2.structures import Instances

from hipie.evaluation.metrics.averages import percent
from hipie.evaluation.metrics.expression_iou import MaskOverlap
from hipie.evaluation.referring_base import ExpressionEvaluator

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

    def _expression_attributes(
        self, record: dict[str, Any], expression: dict[str, Any], prediction: Instances
    ) -> bool:
        """Return whether the expression has a target."""
        return bool(expression["targets"])

    def _mask_scores(self, counts: list[tuple[bool, MaskOverlap]]) -> dict[str, float]:
        positive = [overlap for has_target, overlap in counts if has_target]
        negative = [overlap for has_target, overlap in counts if not has_target]
        ious = [overlap.iou for overlap in positive]
        rejected = [float(not overlap.predicted) for overlap in negative]
        intersection = sum(overlap.intersection for _, overlap in counts)
        union = sum(overlap.union for _, overlap in counts)
        scores = {
            "gIoU": percent([*ious, *rejected]),
            "cIoU": 100.0 * intersection / max(union, 1),
            "N-acc": percent(rejected),
            "T-acc": percent(float(overlap.predicted > 0) for overlap in positive),
        }
        for threshold in PRECISION_THRESHOLDS:
            scores[f"Pr@{threshold}"] = percent(iou >= threshold for iou in ious)
        return scores
