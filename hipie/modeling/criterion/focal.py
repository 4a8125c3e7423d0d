"""Focal loss (Lin et al., ICCV 2017) on tokens and on mask points, and as a matching cost."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

ALPHA = 0.25
GAMMA = 2.0
LOG_FLOOR = 1e-8


def focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary focal loss of every element: alpha 0.25, gamma 2; same shape as `logits`."""
    return sigmoid_focal_loss(logits.float(), targets.float(), ALPHA, GAMMA, reduction="none")


def token_focal(logits: Tensor, positive: Tensor, text_mask: Tensor | None) -> Tensor:
    """Sum of the focal loss over all queries and all real tokens.

    Args:
        logits: [B, Q, T].
        positive: [B, Q, T] bool, the tokens that name the query's object.
        text_mask: [B, T] bool, True for real tokens; None: all are real.
    """
    if text_mask is None:
        return focal(logits, positive).sum()
    real = text_mask.bool()[:, None, :]
    return (focal(logits.masked_fill(~real, 0.0), positive) * real).sum()


def focal_class_cost(logits: Tensor, positive_map: Tensor) -> Tensor:
    """How badly each query's words fit each object: [Q, T] and [N, T] bool -> [Q, N], float32.

    The focal loss as a positive minus the focal loss as a negative, averaged over the object's word
    pieces; 0 for an object whose name is not in the caption.
    """
    with torch.autocast(logits.device.type, enabled=False):
        chance = logits.float().sigmoid()
        as_negative = (1 - ALPHA) * chance**GAMMA * -(1 - chance + LOG_FLOOR).log()
        as_positive = ALPHA * (1 - chance) ** GAMMA * -(chance + LOG_FLOOR).log()
        share = positive_map.float()
        share = share / share.sum(dim=1, keepdim=True).clamp(min=1)
        return (as_positive - as_negative) @ share.T
