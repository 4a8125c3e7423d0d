"""Ref-ZOM: expressions that mean one thing or several, and expressions that mean nothing."""

from __future__ import annotations

from typing import Any

from detectron2.structures import Instances

from hipie.evaluation.metrics.averages import percent
from hipie.evaluation.metrics.iou import Overlap, referring_scores
from hipie.evaluation.referring_base import ExpressionEvaluator


class RefZOMEvaluator(ExpressionEvaluator):
    """oIoU, mIoU and P@X over expressions that mean something, Acc over the others, in percent.

    As DMMI (Hu et al., ICCV 2023) defines them: Acc is the share of expressions that mean nothing
    whose answer has not a single pixel; they count in nothing else. A score without an expression to
    take it from is NaN.

    Outputs and arguments as for `SentenceEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "refzom",
        also_at: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, also_at)

    def _notes(self, record: dict[str, Any], expression: dict[str, Any], answer: Instances) -> bool:
        return bool(expression["targets"])

    def _scores(self, counts: list[tuple[bool, Overlap]]) -> dict[str, float]:
        scores = referring_scores([overlap for means, overlap in counts if means])
        scores["Acc"] = percent(overlap.answered == 0 for means, overlap in counts if not means)
        return scores
