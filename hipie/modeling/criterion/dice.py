"""Dice loss (Milletari et al., 3DV 2016) of masks at points, pair by pair and all against all."""

from __future__ import annotations

import torch
from torch import Tensor


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 p.g + 1) / (sum p + sum g + 1) of each row: [n, P] and [n, P] -> [n]."""
    chance = logits.float().sigmoid()
    targets = targets.float()
    shared = (chance * targets).sum(dim=1)
    return 1 - (2 * shared + 1) / (chance.sum(dim=1) + targets.sum(dim=1) + 1)


def pairwise_dice(logits: Tensor, targets: Tensor) -> Tensor:
    """`dice` of every row of `logits` [Q, P] with every row of `targets` [N, P] -> [Q, N]."""
    with torch.autocast(logits.device.type, enabled=False):
        chance = logits.float().sigmoid()
        targets = targets.float()
        shared = chance @ targets.T
        total = chance.sum(dim=1)[:, None] + targets.sum(dim=1)
        return 1 - (2 * shared + 1) / (total + 1)


def pairwise_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean binary cross entropy of rows [Q, P] against rows [N, P] of 0..1 -> [Q, N].

    Since BCE(x, t) = softplus(x) - x t, one product of matrices does; and softplus(x) is
    max(x, 0) - log sigmoid(|x|), which is several times faster on a CPU than the library's and as
    exact as a cost needs to be.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        base = (logits.clamp(min=0) - logits.abs().sigmoid().log()).sum(dim=1)
        return (base[:, None] - logits @ targets.float().T) / logits.shape[1]
