"""Scores of queries: how sure a class is, with the predicted quality of the box."""

from __future__ import annotations

import torch
from torch import Tensor


def instance_scores(class_logits: Tensor, iou_logits: Tensor) -> Tensor:
    """Geometric mean of class probability and predicted box quality.

    Args:
        class_logits: [..., K].
        iou_logits: [..., 1].

    Returns:
        [..., K] float32 in 0..1.
    """
    return (class_logits.float().sigmoid() * iou_logits.float().sigmoid()).sqrt()


def panoptic_scores(
    class_logits: Tensor, temperature: float = 0.06, min_softmax_classes: int = 0
) -> Tensor:
    """Scores of queries that compete for pixels: softmax of the class probabilities.

    Masked columns have probability 0 and keep the small share that softmax leaves them.

    Args:
        class_logits: [..., K].
        temperature: what the probabilities are divided by.
        min_softmax_classes: where K is less, score as if the vocabulary had so many classes, the further
            ones of probability 0. Among few classes the softmax is sure of any query (of one class
            always entirely); this keeps a query of low probability at the score that it would have
            in a large vocabulary.

    Returns:
        [..., K] float32, summing to 1 over the classes (with those added).
    """
    scaled = class_logits.float().sigmoid() / temperature
    added = min_softmax_classes - scaled.shape[-1]
    if added <= 0:
        return scaled.softmax(-1)
    absent = scaled.new_full((*scaled.shape[:-1], 1), added).log()
    return (scaled - torch.cat([scaled, absent], dim=-1).logsumexp(-1, keepdim=True)).exp()
