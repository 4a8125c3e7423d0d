"""Evaluator of Ref-ZOM: expressions with one, several or no targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hipie.evaluation.metrics.averages import ratio
from hipie.evaluation.metrics.expression_iou import OverlapCounts
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

    def _groups(self, expression: dict[str, Any]) -> tuple[str, ...]:
        return ("with target",) if expression["targets"] else ("without target",)

    def _mask_scores(self, counts: Mapping[str, OverlapCounts]) -> dict[str, float]:
        negative = counts["without target"]
        scores = counts["with target"].referring_scores()
        scores["Acc"] = ratio(negative.expressions - negative.non_empty, negative.expressions)
        return scores
