"""Evaluator of referring segmentation: RefCOCO, RefCOCO+ and RefCOCOg."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from detectron2.structures import Instances

from hipie.evaluation.metrics.averages import percent
from hipie.evaluation.metrics.expression_iou import (
    PRECISION_THRESHOLDS,
    MaskOverlap,
    referring_scores,
)
from hipie.evaluation.referring_base import ExpressionEvaluator


class ExpressionAttributes(NamedTuple):
    """Attributes of one expression.

    Attributes:
        groups: groups for which the oIoU is reported separately.
        box_iou: IoU of predicted and ground-truth box; None if either has none.
    """

    groups: tuple[str, ...]
    box_iou: float | None


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

    def _expression_attributes(
        self, record: dict[str, Any], expression: dict[str, Any], prediction: Instances
    ) -> ExpressionAttributes:
        groups = [str(expression["kind"])] if "kind" in expression else []
        if "held_out" in expression:
            groups.append(f"unseen_{expression['held_out']}" if expression["held_out"] else "seen")
        return ExpressionAttributes(tuple(groups), _box_iou(record, expression, prediction))

    def _mask_scores(
        self, counts: list[tuple[ExpressionAttributes, MaskOverlap]]
    ) -> dict[str, float]:
        scores = referring_scores([overlap for _, overlap in counts])
        overlaps_by_group: dict[str, list[MaskOverlap]] = defaultdict(list)
        for attributes, overlap in counts:
            for group in attributes.groups:
                overlaps_by_group[group].append(overlap)
        for group, overlaps in sorted(overlaps_by_group.items()):
            scores[f"oIoU-{group}"] = referring_scores(overlaps)["oIoU"]
        return scores

    def _attribute_scores(self, attributes: list[ExpressionAttributes]) -> dict[str, float]:
        ious = [a.box_iou for a in attributes if a.box_iou is not None]
        if not ious or len(ious) < len(attributes):
            return {}
        return {f"box-P@{x}": percent(iou >= x for iou in ious) for x in PRECISION_THRESHOLDS}


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
