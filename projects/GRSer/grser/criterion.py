"""What training asks for: masks, the right side of the triplet, background by the anti-sentence.

Wu et al., ICCV 2023, name the three; their weights, the margin's size, and that negative pictures
have the two sentences of the triplet exchanged, are ours.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hipie.training.dice import dice

CROSS_ENTROPY, DICE = "ce", "bce_dice"
MASK_LOSSES = (CROSS_ENTROPY, DICE)


def mask_loss(logits: Tensor, target: Tensor, kind: str, weights: tuple[float, float]) -> Tensor:
    """How far masks are from what they should be.

    Args:
        logits: [N, 2, H, W] of background and target.
        target: [N, H, W] of 0 and 1.
        kind: "ce", cross entropy whose classes weigh `weights` (LAVT's), or "bce_dice".
        weights: of background and target.
    """
    logits = logits.float()
    if kind == CROSS_ENTROPY:
        return F.cross_entropy(logits, target.long(), logits.new_tensor(weights))
    margin, target = logits[:, 1] - logits[:, 0], target.float()
    entropy = F.binary_cross_entropy_with_logits(margin, target)
    return entropy + dice(margin.flatten(1), target.flatten(1)).mean()


def triplet_loss(to_sentence: Tensor, to_anti: Tensor, positive: Tensor, margin: float) -> Tensor:
    """max(0, d(z, near) - d(z, far) + margin), averaged over pictures; 0 of none.

    Args:
        to_sentence, to_anti: [N] distances.
        positive: [N] bool; the sentence should be nearer for these, the anti-sentence for others.
        margin: how much nearer.
    """
    gap = (to_sentence - to_anti) * (positive.to(to_sentence.dtype) * 2 - 1)
    return (gap + margin).clamp_min(0).sum() / max(len(gap), 1)
