"""The one thing that a sentence describes."""

from __future__ import annotations

from torch import Tensor

from hipie.inference.scores import thing_scores


def best_described(sentence_logits: Tensor, iou_logits: Tensor) -> tuple[Tensor, Tensor]:
    """The query that fits a sentence best.

    Suppression among queries never removes the best one, so none is needed.

    Args:
        sentence_logits: [..., Q, 1] logits against the pooled sentence.
        iou_logits: [..., Q, 1] predicted box quality.

    Returns:
        Its index [...] and its score [...] in 0..1.
    """
    score, query = thing_scores(sentence_logits, iou_logits).squeeze(-1).max(-1)
    return query, score
