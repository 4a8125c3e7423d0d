"""Evaluator of referring segmentation: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from detectron2.structures import Instances

from hipie.evaluation.distributed import sum_integers
from hipie.evaluation.metrics.averages import ratio
from hipie.evaluation.metrics.expression_iou import PRECISION_THRESHOLDS, OverlapCounts
from hipie.evaluation.referring_base import ALL, ExpressionEvaluator

# Prefix of the groups for which the oIoU is reported separately.
GROUP = "oIoU of "


class ReferringEvaluator(ExpressionEvaluator):
    """oIoU, mIoU and P@0.5 ... 0.9 over the expressions of a data set.

    The target of an expression that describes several objects is their union. Expressions with a
    `kind` are also reported by kind (`oIoU-<kind>`), those with `held_out` by what was held out of
    training: `oIoU-seen` for nothing (""), else `oIoU-unseen_<held_out>`, such as
    `oIoU-unseen_class` and `oIoU-unseen_pair` in the picture book. Where every expression describes
    one object with a `bbox`, and predictions have `pred_boxes`, `box-P@0.5` ... are the fractions
    of expressions whose first box has at least that IoU, as HIPIE and UNINEXT report.

    Outputs and arguments as for `ExpressionEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "refer",
        resized_to: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, resized_to)

    def reset(self) -> None:
        """Discard the expressions counted so far."""
        super().reset()
        self._boxes = [0] * (1 + len(PRECISION_THRESHOLDS))
        self._expressions_without_box = 0

    def _groups(self, expression: dict[str, Any]) -> list[str]:
        groups = [str(expression["kind"])] if "kind" in expression else []
        if "held_out" in expression:
            groups.append(f"unseen_{expression['held_out']}" if expression["held_out"] else "seen")
        return [f"{GROUP}{group}" for group in groups]

    def _mask_scores(self, counts: Mapping[str, OverlapCounts]) -> dict[str, float]:
        scores = counts[ALL].referring_scores()
        for group in sorted(group for group in counts if group.startswith(GROUP)):
            scores[f"oIoU-{group.removeprefix(GROUP)}"] = counts[group].overall_iou()
        return scores

    def _count_boxes(
        self, record: dict[str, Any], expression: dict[str, Any], prediction: Instances
    ) -> None:
        iou = _box_iou(record, expression, prediction)
        if iou is None:
            self._expressions_without_box += 1
            return
        reached = [True, *(iou >= threshold for threshold in PRECISION_THRESHOLDS)]
        self._boxes = [count + one for count, one in zip(self._boxes, reached, strict=True)]

    def _box_scores(self) -> dict[str, float]:
        counts = {"boxes": self._boxes, "without": [self._expressions_without_box]}
        sums = sum_integers(counts, self._distributed)
        if sums is None or sums["without"] != [0] or not sums["boxes"][0]:
            return {}
        expressions, *reached = sums["boxes"]
        return {
            f"box-P@{threshold}": ratio(count, expressions)
            for threshold, count in zip(PRECISION_THRESHOLDS, reached, strict=True)
        }


def _box_iou(
    record: dict[str, Any], expression: dict[str, Any], prediction: Instances
) -> float | None:
    """Compute the IoU of the first predicted box and the target's; 0 without a prediction."""
    if len(expression["targets"]) != 1 or not prediction.has("pred_boxes"):
        return None
    box = record["annotations"][expression["targets"][0]].get("bbox")
    if box is None:
        return None
    if len(prediction) == 0:
        return 0.0
    x1, y1, x2, y2 = prediction.pred_boxes.tensor[0].tolist()
    width = max(0.0, min(x2, box[0] + box[2]) - max(x1, box[0]))
    height = max(0.0, min(y2, box[1] + box[3]) - max(y1, box[1]))
    union = (x2 - x1) * (y2 - y1) + box[2] * box[3] - width * height
    return float(width * height / union) if union > 0 else 0.0
