"""Mean of dense features inside binary masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

EPSILON = 1e-8


def mask_pooling(features: Tensor, mask_logits: Tensor) -> Tensor:
    """Average features over the pixels whose mask logit is positive (FC-CLIP, section 3.3).

    Masks of another size are resized bilinearly first. No gradient passes through the masks.

    Args:
        features: [B, C, h, w].
        mask_logits: [B, Q, h', w'].

    Returns:
        [B, Q, C]; 0 for a mask without pixels.
    """
    inside = binary_masks(mask_logits, (features.shape[-2], features.shape[-1])).to(features.dtype)
    share = inside / (inside.sum((-2, -1), keepdim=True) + EPSILON)
    return share.flatten(2) @ features.flatten(2).transpose(1, 2)


@torch.no_grad()
def binary_masks(mask_logits: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, Q, *size] bool, where mask logits [B, Q, h, w], resized bilinearly, are positive."""
    if tuple(mask_logits.shape[-2:]) != tuple(size):
        mask_logits = F.interpolate(mask_logits.float(), size=size, mode="bilinear")
    return mask_logits > 0
