"""Generalised referring segmentation: expressions that mean one thing, several, or nothing."""

from __future__ import annotations

from typing import Any

from detectron2.structures import Instances

from hipie.evaluation.metrics.averages import percent
from hipie.evaluation.metrics.iou import Overlap
from hipie.evaluation.referring_base import ExpressionEvaluator

PRECISION_AT = (0.7, 0.8, 0.9)


class GeneralizedReferringEvaluator(ExpressionEvaluator):
    """gIoU, cIoU, N-acc, T-acc and Pr@0.7 ... 0.9 (Liu et al., CVPR 2023), in percent.

    An empty answer says that nothing is meant. gIoU is the mean IoU over all expressions, where an
    expression that means nothing counts 1 if its answer is empty, else 0; cIoU is the sum of
    intersections over the sum of unions; N-acc the share of empty answers among expressions that
    mean nothing, T-acc that of answers among the others; Pr@X the share of expressions with a target
    whose IoU is at least X. A score without an expression to take it from is NaN.

    Outputs and arguments as for `SentenceEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "grefer",
        also_at: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, also_at)

    def _notes(self, record: dict[str, Any], expression: dict[str, Any], answer: Instances) -> bool:
        return bool(expression["targets"])

    def _scores(self, counts: list[tuple[bool, Overlap]]) -> dict[str, float]:
        meant = [overlap for means, overlap in counts if means]
        others = [overlap for means, overlap in counts if not means]
        ious = [overlap.iou for overlap in meant]
        rejected = [float(not overlap.answered) for overlap in others]
        everything = [overlap for _, overlap in counts]
        either = sum(overlap.either for overlap in everything)
        scores = {
            "gIoU": percent([*ious, *rejected]),
            "cIoU": 100.0 * sum(overlap.both for overlap in everything) / max(either, 1),
            "N-acc": percent(rejected),
            "T-acc": percent(float(overlap.answered > 0) for overlap in meant),
        }
        for threshold in PRECISION_AT:
            scores[f"Pr@{threshold}"] = percent(iou >= threshold for iou in ious)
        return scores
