"""Losses of ZegCLIP: focal and dice of masks that do not exclude each other (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hipie.modeling.criterion.losses import dice, focal
from hipie.modeling.criterion.normalizer_averaging import average_over_processes


@torch.no_grad()
def pseudo_labels(logits: Tensor, first: int, unlabelled: Tensor) -> Tensor:
    """Label unlabelled pixels with the most probable class among those that have no labels.

    As in the released program, there is no threshold: every unlabelled pixel has one class.

    Args:
        logits: [K, H, W] of an image.
        first: index of the first class without labels; all later ones have none either.
        unlabelled: [H, W] bool.

    Returns:
        [K, H, W] bool; False for the classes before `first`.
    """
    best = logits[first:].argmax(0) + first
    classes = torch.arange(len(logits), device=logits.device)
    return (best == classes[:, None, None]) & unlabelled


def zegclip_losses(
    logits: Sequence[Tensor],
    targets: Sequence[Tensor],
    labelled: Sequence[Tensor],
    weights: tuple[float, float] = (100.0, 1.0),
) -> dict[str, Tensor]:
    """Compute the weighted focal loss of all classes and the dice loss of those in an image.

    Both are divided by the number of classes in the images of the batch, at least 1. The focal loss
    of a mask is the mean over its pixels.

    Args:
        logits: [K_i, H, W] of each image.
        targets: [K_i, H, W] bool.
        labelled: [H, W] bool, pixels with a loss.
        weights: of the focal and the dice loss.

    Returns:
        `loss_focal` and `loss_dice`.
    """
    focal_sum, dice_sum, count = [], [], []
    for scores, masks, valid in zip(logits, targets, labelled, strict=True):
        rows, masks = scores.flatten(1), masks.flatten(1)
        valid = valid.flatten().float()
        masks = masks & valid.bool()
        losses = focal(rows, masks.to(rows.dtype)) * valid
        focal_sum.append(losses.sum() / valid.sum().clamp(min=1))
        present = masks.any(1)
        weight = valid.expand(int(present.sum()), -1)
        dice_sum.append(dice(rows[present], masks[present], weight).sum())
        count.append(present.sum())
    number = average_over_processes(torch.stack(count).sum().float()).clamp(min=1)
    return {
        "loss_focal": weights[0] * torch.stack(focal_sum).sum() / number,
        "loss_dice": weights[1] * torch.stack(dice_sum).sum() / number,
    }
