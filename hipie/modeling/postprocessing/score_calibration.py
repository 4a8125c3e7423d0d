"""Class scores of queries for instances and for panoptic and semantic maps."""

from __future__ import annotations

import torch
from torch import Tensor


def instance_scores(class_logits: Tensor, iou_logits: Tensor | None) -> Tensor:
    """Compute the geometric mean of class probability and predicted IoU.

    Args:
        class_logits: [..., K].
        iou_logits: [..., 1]; None = the class probability is the score.

    Returns:
        [..., K] float32 in 0..1.
    """
    if iou_logits is None:
        return class_logits.float().sigmoid()
    return (class_logits.float().sigmoid() * iou_logits.float().sigmoid()).sqrt()


def panoptic_scores(
    class_logits: Tensor, temperature: float = 0.06, min_softmax_classes: int = 0
) -> Tensor:
    """Compute the scores of queries that compete for pixels: softmax of class probabilities.

    Masked classes have probability 0 and keep the small share that the softmax leaves them.

    Args:
        class_logits: [..., K].
        temperature: divisor of the probabilities.
        min_softmax_classes: if K is smaller, classes of probability 0 are added to the softmax up
            to this number. With few classes the softmax is close to 1 for every query (with one
            class always 1); this keeps a query of low probability at the score that it would have
            in a large vocabulary.

    Returns:
        [..., K] float32 that sum to 1 over the classes (the added ones included).
    """
    scaled = class_logits.float().sigmoid() / temperature
    added = min_softmax_classes - scaled.shape[-1]
    if added <= 0:
        return scaled.softmax(-1)
    absent_logit = scaled.new_full((*scaled.shape[:-1], 1), added).log()
    return (scaled - torch.cat([scaled, absent_logit], dim=-1).logsumexp(-1, keepdim=True)).exp()
