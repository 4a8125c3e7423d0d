"""Losses of ReferSAM: cross entropy and dice of the mask and the coarse mask at sampled points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.criterion.losses import dice
from hipie.modeling.criterion.point_sampling import point_sample, uncertain_points

LOSS_NAMES = ("loss_mask", "loss_dice", "loss_mask_aux", "loss_dice_aux")


class MaskCriterion:
    """The four losses of ReferSAM.

    Each mask is sampled at points of its own, three quarters of them where it is uncertain. The
    target is sampled bilinearly at the same points, so that it is not resized for the coarse mask.

    Args:
        num_points: number of points for each mask.
        weights: weights of `LOSS_NAMES`, in order.

    Raises:
        ValueError: for another number of weights, or fewer than 4 points.
    """

    def __init__(self, num_points: int = 12544, weights: Sequence[float] = (1, 1, 1, 1)) -> None:
        if len(weights) != len(LOSS_NAMES) or num_points < 4:
            raise InputError(
                "MODEL.REFERSAM.LOSS needs four weights and at least 4 points, but has "
                f"{tuple(weights)} and {num_points}"
            )
        self.num_points = num_points
        self.weights = tuple(float(weight) for weight in weights)

    @property
    def supervises_coarse_mask(self) -> bool:
        """Whether a loss of the coarse mask has a weight."""
        return any(self.weights[2:])

    def __call__(
        self, logits: Tensor, coarse_logits: Tensor | None, targets: Tensor
    ) -> dict[str, Tensor]:
        """Compute the weighted losses by name.

        Args:
            logits: [B, H, W].
            coarse_logits: [B, 1, H/4, W/4]; None if there is no coarse mask, which leaves out its
                losses.
            targets: [B, H, W] of 0 and 1; all 0 for expressions without a target.
        """
        losses: list[Tensor] = []
        with torch.autocast(logits.device.type, enabled=False):
            for masks in [logits] if coarse_logits is None else [logits, coarse_logits[:, 0]]:
                masks = masks.float()
                points = uncertain_points(masks.detach(), self.num_points)
                point_logits = point_sample(masks, points)
                with torch.no_grad():
                    point_targets = point_sample(targets.float(), points)
                losses += [
                    cross_entropy(point_logits, point_targets),
                    dice(point_logits, point_targets).mean(),
                ]
        return {
            name: weight * loss
            for name, weight, loss in zip(LOSS_NAMES, self.weights, losses, strict=False)
        }


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute binary cross entropy of [B, P], averaged over points and samples."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).mean()
