"""Evaluator of Ref-ZOM: expressions with one, several or no targets."""

from __future__ import annotations

from typing import Any

from detectron2.structures import Instances

from hipie.evaluation.metrics.averages import percent
from hipie.evaluation.metrics.expression_iou import MaskOverlap, referring_scores
from hipie.evaluation.referring_base import ExpressionEvaluator


class RefZOMEvaluator(ExpressionEvaluator):
    """oIoU, mIoU and P@X over expressions with targets, Acc over the others, in percent.

    As DMMI (Hu et al., ICCV 2023) defines them: Acc is the fraction of expressions without target
    whose mask is empty; they count in no other score. A score without expressions is NaN.

    Outputs and arguments as for `ExpressionEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "refzom",
        resized_to: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, resized_to)

    def _expression_attributes(
        self, record: dict[str, Any], expression: dict[str, Any], prediction: Instances
    ) -> bool:
        """Return whether the expression has a target."""
        return bool(expression["targets"])

    def _mask_scores(self, counts: list[tuple[bool, MaskOverlap]]) -> dict[str, float]:
        scores = referring_scores([overlap for has_target, overlap in counts if has_target])
        scores["Acc"] = percent(
            overlap.predicted == 0 for has_target, overlap in counts if not has_target
        )
        return scores
