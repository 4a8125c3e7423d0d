"""Losses of GRSer: masks, triplet, mirror training and language heatmaps.

Wu et al., ICCV 2023, name the mask loss, the triplet loss and mirror training. Their weights, the
margin, and the exchange of both expressions in the triplets of negative images are our choices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from grser.modeling.negative_rejection import MARGIN
from hipie.modeling.criterion.losses import dice

CROSS_ENTROPY, DICE = "ce", "bce_dice"
MASK_LOSSES = (CROSS_ENTROPY, DICE)
# Scale of the difference of two heatmaps (cosines in -1..1) to a logit.
LOGIT_SCALE = 10.0


@dataclass(frozen=True)
class LossConfig:
    """Kinds and weights of the losses; see `MODEL.GRSER.LOSS`."""

    mask_loss: str = CROSS_ENTROPY
    class_weights: tuple[float, float] = (0.9, 1.1)
    triplet_weight: float = 1.0
    triplet_margin: float = MARGIN
    triplet_negatives: bool = True
    mirror_weight: float = 1.0
    heatmap_weight: float = 0.0


@dataclass(frozen=True)
class Distances:
    """Distances of images to their expressions and anti-expressions.

    Attributes:
        expression, anti_expression: [N].
        positive: [N] bool, the images that show the target.
    """

    expression: Tensor
    anti_expression: Tensor
    positive: Tensor


class GroupCriterion:
    """Weighted losses of a batch of groups.

    Args:
        config: kinds and weights.
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def mask(self, logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Loss of the masks, logits [N, 2, H, W] and targets [N, H, W]."""
        return {"loss_mask": self._mask_loss(logits, targets)}

    def triplet(self, distances: Distances) -> dict[str, Tensor]:
        """Triplet loss of the images whose groups have negatives."""
        config = self.config
        loss = triplet_loss(
            distances.expression,
            distances.anti_expression,
            distances.positive,
            config.triplet_margin,
            config.triplet_negatives,
        )
        return {"loss_triplet": config.triplet_weight * loss}

    def mirror(
        self, logits: Tensor, targets: Tensor, heatmaps: Tensor, anti_heatmaps: Tensor
    ) -> dict[str, Tensor]:
        """Losses of mirror training, whose pass has the two expressions exchanged.

        Args:
            logits: [N, 2, H, W] of the mirrored pass. Its foreground is the background, so its
                channels are swapped: the target's pixels have the same weight in both passes, and
                dice is that of the target.
            targets: [N, H, W].
            heatmaps: [N, h, w] language heatmaps of the first pass.
            anti_heatmaps: [N, h, w] those of the mirrored pass.
        """
        config = self.config
        losses = {"loss_mirror": config.mirror_weight * self._mask_loss(logits.flip(1), targets)}
        if config.heatmap_weight:
            loss = heatmap_loss(heatmaps, anti_heatmaps, targets)
            losses["loss_heatmap"] = config.heatmap_weight * loss
        return losses

    def _mask_loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return mask_loss(logits, targets, self.config.mask_loss, self.config.class_weights)


def mask_loss(logits: Tensor, target: Tensor, kind: str, weights: tuple[float, float]) -> Tensor:
    """Compute the segmentation loss of masks.

    Args:
        logits: [N, 2, H, W] of background and target.
        target: [N, H, W] of 0 and 1.
        kind: "ce", cross entropy with class weights (as in LAVT), or "bce_dice", binary cross
            entropy plus dice, where dice is averaged over the images that show the target.
        weights: class weights of background and target.
    """
    logits = logits.float()
    if kind == CROSS_ENTROPY:
        class_weights = torch.cat([logits.new_full((1,), weight) for weight in weights])
        return F.cross_entropy(logits, target.long(), class_weights)
    foreground, target = logits[:, 1] - logits[:, 0], target.float()
    bce = F.binary_cross_entropy_with_logits(foreground, target)
    positive = target.flatten(1).any(1)
    overlap = dice(foreground.flatten(1), target.flatten(1))
    return bce + (overlap * positive).sum() / positive.sum().clamp(min=1)


def triplet_loss(
    distance: Tensor,
    anti_distance: Tensor,
    positive: Tensor,
    margin: float,
    negatives: bool = True,
) -> Tensor:
    """Compute max(0, d(z, near) - d(z, far) + margin), averaged over images.

    Args:
        distance: [N] distances to the expression.
        anti_distance: [N] distances to the anti-expression.
        positive: [N] bool; `near` is the expression for positive images, else the anti-expression.
        margin: margin of the triplet loss.
        negatives: include negative images.

    Returns:
        A scalar; 0 if there is no image.
    """
    gap = (distance - anti_distance) * (positive.to(distance.dtype) * 2 - 1)
    loss = (gap + margin).clamp_min(0)
    if negatives:
        return loss.sum() / max(len(loss), 1)
    return (loss * positive).sum() / positive.sum().clamp(min=1)


def heatmap_loss(heatmaps: Tensor, anti_heatmaps: Tensor, target: Tensor) -> Tensor:
    """Compute binary cross entropy of the difference of the two language heatmaps.

    Not part of the paper. With a frozen text encoder the features of expression and
    anti-expression are nearly equal at first, and the decoder cannot distinguish the two passes of
    mirror training; this loss separates them.

    Args:
        heatmaps: [N, h, w] of the expression.
        anti_heatmaps: [N, h, w] of the anti-expression.
        target: [N, H, W] of 0 and 1, averaged over the pixels of each position.
    """
    size = tuple(heatmaps.shape[-2:])
    share = F.adaptive_avg_pool2d(target.float()[:, None], size)[:, 0]
    return F.binary_cross_entropy_with_logits(LOGIT_SCALE * (heatmaps - anti_heatmaps), share)


def has_target(targets: Tensor) -> Tensor:
    """Return which target masks [N, H, W] are not empty: [N] bool."""
    return targets.flatten(1).any(1)
