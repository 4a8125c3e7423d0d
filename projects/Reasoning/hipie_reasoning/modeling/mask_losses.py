"""Losses of masks as in LISA: per-mask sums divided by the number of masks of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# LISA divides probabilities by 1000 in half precision; with its epsilon this is what smooths.
DICE_SMOOTHING = 1e-6 * 1000


def mask_losses(logits: Sequence[Tensor], targets: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Compute binary cross entropy and dice loss of masks of several sizes.

    The cross entropy of a mask is the mean over its pixels, its dice loss is
    1 - (2 sum(p g) + s) / (sum p + sum g + s) with s = 0.001; both are averaged over the masks.

    Args:
        logits: tensors [n, h, w], n may be 0.
        targets: likewise, of 0 and 1.

    Returns:
        Cross entropy and dice, 0 without any mask.
    """
    cross_entropy, dice, count = [], [], 0
    for mask_logits, mask_targets in zip(logits, targets, strict=True):
        with torch.autocast(mask_logits.device.type, enabled=False):
            flat, target = mask_logits.float().flatten(1), mask_targets.float().flatten(1)
            pixel_losses = F.binary_cross_entropy_with_logits(flat, target, reduction="none")
            probability = flat.sigmoid()
            overlap = 2 * (probability * target).sum(1) + DICE_SMOOTHING
            total = probability.sum(1) + target.sum(1) + DICE_SMOOTHING
            cross_entropy.append(pixel_losses.mean(1).sum())
            dice.append((1 - overlap / total).sum())
        count += len(mask_logits)
    return torch.stack(cross_entropy).sum() / max(count, 1), torch.stack(dice).sum() / max(count, 1)
