"""Where DINO's class token looks: masks from the attention of the last block.

Caron et al., "Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021,
section 4.2.2.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hipie_training_free.error import TrainingFreeError


def mass_masks(attention: Tensor, mass: float = 0.6) -> Tensor:
    """The smallest sets of patches that hold a share of the attention.

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
    ordered, places = attention.double().sort(dim=-1)
    held = (ordered / ordered.sum(-1, keepdim=True)).cumsum(-1)
    masks = torch.zeros_like(attention, dtype=torch.bool)
    kept = held > 1 - mass
    kept[..., -1] = True
    return masks.scatter(-1, places, kept)


def mean_mask(attention: Tensor, mass: float = 0.6) -> Tensor:
    """[P] bool: the mask of the mean of all heads [heads, P]; no truth is needed."""
    return mass_masks(attention.float().mean(0), mass)


def best_mask(masks: Tensor, truth: Tensor) -> tuple[int, float]:
    """The head whose mask overlaps most with the truth, and its IoU, as DINO is judged.

    Args:
        masks: [heads, ...] bool.
        truth: [...] bool.
    """
    over = (masks & truth).flatten(1).sum(1)
    union = (masks | truth).flatten(1).sum(1).clamp(min=1)
    iou, head = (over / union).max(0)
    return int(head), float(iou)
