"""Scores of queries: how sure a class is, with the predicted quality of the box."""

from __future__ import annotations

from torch import Tensor


def thing_scores(class_logits: Tensor, iou_logits: Tensor) -> Tensor:
    """Geometric mean of class probability and predicted box quality.

    Args:
        class_logits: [..., K].
        iou_logits: [..., 1].

    Returns:
        [..., K] float32 in 0..1.
    """
    return (class_logits.float().sigmoid() * iou_logits.float().sigmoid()).sqrt()


def merge_scores(class_logits: Tensor, temperature: float = 0.06) -> Tensor:
    """Scores of queries that compete for pixels: softmax of the class probabilities.

    Masked columns have probability 0 and keep the small share that softmax leaves them.

    Args:
        class_logits: [..., K].
        temperature: what the probabilities are divided by.

    Returns:
        [..., K] float32, summing to 1 over the classes.
    """
    return (class_logits.float().sigmoid() / temperature).softmax(-1)
