"""Scores of things, and the scores that things and stuff meet with."""

from __future__ import annotations

from torch import Tensor


def thing_scores(class_logits: Tensor, iou_logits: Tensor) -> Tensor:
    """sqrt(class probability * predicted box quality): [Q, K] and [Q, 1] -> [Q, K]."""
    return (class_logits.float().sigmoid() * iou_logits.float().sigmoid()).sqrt()


def merge_scores(class_logits: Tensor, temperature: float = 0.06) -> Tensor:
    """Softmax over classes of the probabilities, sharpened: [N, K] -> [N, K]."""
    return (class_logits.float().sigmoid() / temperature).softmax(-1)
