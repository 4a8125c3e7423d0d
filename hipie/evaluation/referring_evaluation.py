"""Referring segmentation: does the mask show the one object that the expression describes?"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, NamedTuple

from detectron2.structures import Instances

from hipie.evaluation.metrics.averages import percent
from hipie.evaluation.metrics.iou import PRECISION_AT, Overlap, referring_scores
from hipie.evaluation.referring_base import ExpressionEvaluator


class ExpressionNotes(NamedTuple):
    """The groups that an expression is reported in, and the IoU of boxes where both have one."""

    groups: tuple[str, ...]
    box_iou: float | None


class ReferringEvaluator(ExpressionEvaluator):
    """oIoU, mIoU and P@0.5 ... 0.9 over the expressions of a data set.

    Expressions that mean several objects count with the union of them. Expressions that carry a `kind`
    are also reported kind by kind (`oIoU-<kind>`), and those with `held_out` by what training
    withheld of their words: `oIoU-seen` for nothing (""), else `oIoU-unseen_<what>`, as
    `oIoU-unseen_class` and `oIoU-unseen_pair` in the picture book. Where every expression means one
    object with a `bbox`, and answers have `pred_boxes`, `box-P@0.5` ... are the shares of expressions
    whose first box has at least that IoU, as HIPIE and UNINEXT report.

    Outputs and arguments as for `SentenceEvaluator`.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        result_name: str = "refer",
        also_at: int | None = None,
    ) -> None:
        super().__init__(dataset_name, distributed, result_name, also_at)

    def _notes(
        self, record: dict[str, Any], expression: dict[str, Any], answer: Instances
    ) -> ExpressionNotes:
        found = [str(expression["kind"])] if "kind" in expression else []
        if "held_out" in expression:
            found.append(f"unseen_{expression['held_out']}" if expression["held_out"] else "seen")
        return ExpressionNotes(tuple(found), _box_iou(record, expression, answer))

    def _scores(self, counts: list[tuple[ExpressionNotes, Overlap]]) -> dict[str, float]:
        scores = referring_scores([overlap for _, overlap in counts])
        by_group: dict[str, list[Overlap]] = defaultdict(list)
        for notes, overlap in counts:
            for group in notes.groups:
                by_group[group].append(overlap)
        for group, overlaps in sorted(by_group.items()):
            scores[f"oIoU-{group}"] = referring_scores(overlaps)["oIoU"]
        return scores

    def _scores_of_notes(self, notes: list[ExpressionNotes]) -> dict[str, float]:
        ious = [one.box_iou for one in notes]
        if not ious or None in ious:
            return {}
        return {f"box-P@{x}": percent(iou >= x for iou in ious) for x in PRECISION_AT}


def _box_iou(record: dict[str, Any], expression: dict[str, Any], answer: Instances) -> float | None:
    """IoU of the answer's first box and the object's; 0 without an answer."""
    if len(expression["targets"]) != 1 or not answer.has("pred_boxes"):
        return None
    box = record["annotations"][expression["targets"][0]].get("bbox")
    if box is None:
        return None
    if len(answer) == 0:
        return 0.0
    left, top, right, bottom = answer.pred_boxes.tensor[0].tolist()
    wide = max(0.0, min(right, box[0] + box[2]) - max(left, box[0]))
    high = max(0.0, min(bottom, box[1] + box[3]) - max(top, box[1]))
    either = (right - left) * (bottom - top) + box[2] * box[3] - wide * high
    return wide * high / either if either > 0 else 0.0
