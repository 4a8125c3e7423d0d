"""Masks from the attention of DINO's class token in the last block.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021,
section 4.2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hipie_training_free.error import TrainingFreeError


def attention_masks(attention: Tensor, mass: float = 0.6) -> Tensor:
    """Compute the smallest sets of patches that hold a share of the attention.

    Args:
        attention: [..., P], not negative.
        mass: the share, published 0.6.

    Returns:
        [..., P] bool.

    Raises:
        TrainingFreeError: if the share is not above 0 and at most 1.
    """
    if not 0 < mass <= 1:
        raise TrainingFreeError(f"the share of the attention is {mass}; it has to be in 0..1")
    ordered, indices = attention.double().sort(dim=-1)
    cumulative = (ordered / ordered.sum(-1, keepdim=True)).cumsum(-1)
    masks = torch.zeros_like(attention, dtype=torch.bool)
    selected = cumulative > 1 - mass
    selected[..., -1] = True
    return masks.scatter(-1, indices, selected)


def mean_attention_mask(attention: Tensor, mass: float = 0.6) -> Tensor:
    """Compute the mask [P] of the mean attention of all heads [heads, P]."""
    return attention_masks(attention.float().mean(0), mass)
