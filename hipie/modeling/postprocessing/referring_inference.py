"""The one thing that an expression describes."""

from __future__ import annotations

from torch import Tensor

from hipie.modeling.postprocessing.score_calibration import instance_scores


def best_query(expression_logits: Tensor, iou_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The query that fits an expression best.

    Suppression among queries never removes the best one, so none is needed.

    Args:
        sentence_logits: [..., Q, 1] logits against the pooled expression.
        iou_logits: [..., Q, 1] predicted box quality.

    Returns:
        Its index [...] and its score [...] in 0..1.
    """
    score, query = instance_scores(expression_logits, iou_logits).squeeze(-1).max(-1)
    return query, score
