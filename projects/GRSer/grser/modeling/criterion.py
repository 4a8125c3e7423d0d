"""What training asks for: masks, the right side of the triplet, background by the anti-expression.

Wu et al., ICCV 2023, name the three; their weights, the margin's size, and that negative images
have the two expressions of the triplet exchanged, are ours.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.criterion.dice import dice

CROSS_ENTROPY, DICE = "ce", "bce_dice"
MASK_LOSSES = (CROSS_ENTROPY, DICE)
# Heatmaps lie in -1..1; times this, their difference is as sure as a logit can be.
SHARPNESS = 10.0


def mask_loss(logits: Tensor, target: Tensor, kind: str, weights: tuple[float, float]) -> Tensor:
    """How far masks are from what they should be.

    Args:
        logits: [N, 2, H, W] of background and target.
        target: [N, H, W] of 0 and 1.
        kind: "ce", cross entropy whose classes weigh `weights` (LAVT's), or "bce_dice", whose dice
            is of images that show the target (with nothing to overlap it says nothing).
        weights: of background and target.
    """
    logits = logits.float()
    if kind == CROSS_ENTROPY:
        return F.cross_entropy(logits, target.long(), logits.new_tensor(weights))
    margin, target = logits[:, 1] - logits[:, 0], target.float()
    entropy = F.binary_cross_entropy_with_logits(margin, target)
    shown = target.flatten(1).any(1)
    overlap = dice(margin[shown].flatten(1), target[shown].flatten(1))
    return entropy + overlap.sum() / max(len(overlap), 1)


def triplet_loss(
    to_sentence: Tensor,
    to_anti: Tensor,
    positive: Tensor,
    margin: float,
    negatives: bool = True,
) -> Tensor:
    """max(0, d(z, near) - d(z, far) + margin), averaged over images; 0 of none.

    Args:
        to_sentence, to_anti: [N] distances.
        positive: [N] bool; the expression should be nearer for these, the anti-expression for others.
        margin: how much nearer.
        negatives: count the others.
    """
    gap = (to_sentence - to_anti) * (positive.to(to_sentence.dtype) * 2 - 1)
    gap = gap if negatives else gap[positive]
    return (gap + margin).clamp_min(0).sum() / max(len(gap), 1)


def heatmap_loss(heat: Tensor, anti_heat: Tensor, target: Tensor) -> Tensor:
    """Places that show the target are more like the expression, all others like the anti-expression.

    Ours: a network whose expression and anti-expression start out alike cannot tell the two passes of
    mirror training apart, and answers "perhaps" everywhere; this pulls them to either side.

    Args:
        heat, anti_heat: [N, h, w] language heatmaps of the expression and the anti-expression.
        target: [N, H, W] of 0 and 1; a place of a heatmap takes the mean of its pixels.
    """
    wanted = F.adaptive_avg_pool2d(target.float()[:, None], tuple(heat.shape[-2:]))[:, 0]
    return F.binary_cross_entropy_with_logits(SHARPNESS * (heat - anti_heat), wanted)
