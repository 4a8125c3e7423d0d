"""Cross entropy and DICE of the mask and of the coarse mask, on uncertain points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.criterion.point_sampling import sample_logits, uncertain_points

NAMES = ("loss_mask", "loss_dice", "loss_mask_aux", "loss_dice_aux")


class MaskCriterion:
    """The four terms of ReferSAM's loss.

    Each mask is judged at points of its own, three quarters of them where it is unsure; the target
    is sampled there with the same bilinear rule, so it needs no resize for the coarse mask.

    Args:
        num_points: points a mask.
        weights: of `NAMES`, in order.
    """

    def __init__(self, num_points: int = 12544, weights: Sequence[float] = (1, 1, 1, 1)) -> None:
        if len(weights) != len(NAMES) or num_points < 4:
            raise ValueError(
                f"MODEL.REFERSAM.LOSS takes four weights and at least 4 points, and was given "
                f"{tuple(weights)} and {num_points}"
            )
        self.num_points = num_points
        self.weights = tuple(float(weight) for weight in weights)

    def __call__(self, logits: Tensor, coarse: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Weighted terms by name.

        Args:
            logits: [B, H, W].
            coarse: [B, 1, H/4, W/4].
            targets: [B, H, W] of 0 and 1; all 0 where an expression means nothing.
        """
        terms: list[Tensor] = []
        with torch.autocast(logits.device.type, enabled=False):
            for masks in (logits.float(), coarse[:, 0].float()):
                points = uncertain_points(masks.detach(), self.num_points)
                predicted = sample_logits(masks, points)
                with torch.no_grad():
                    wanted = sample_logits(targets.float(), points)
                terms += [cross_entropy(predicted, wanted), dice(predicted, wanted)]
        return {
            name: weight * term
            for name, weight, term in zip(NAMES, self.weights, terms, strict=True)
        }


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over points [B, P] and samples; targets in 0..1."""
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(1).mean()


def dice(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 sum pq + 1) / (sum p + sum q + 1) of each sample [B, P], their mean."""
    found = logits.sigmoid()
    both = (found * targets).sum(1)
    return (1 - (2 * both + 1) / (found.sum(1) + targets.sum(1) + 1)).mean()
