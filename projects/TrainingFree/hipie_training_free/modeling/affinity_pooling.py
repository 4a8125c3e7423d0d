"""CLIP-DINOiser without its trained layers: MaskCLIP's features pooled by DINO's affinities.

Wysoczanska, Simeoni, Ramamonjisoa, Bursuc, Trzcinski, Perez, "CLIP-DINOiser: Teaching CLIP a few
DINO tricks for open-vocabulary semantic segmentation", ECCV 2024, section 3.2: the teacher that the
paper's two convolutions learn from.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TINY = 1e-6


def pool_by_affinity(features: Tensor, guide: Tensor, threshold: float = 0.2) -> Tensor:
    """Every patch takes the weighted mean of patches that look alike.

    f+_p = sum_q C_pq f_q / (sum_q C_pq + 1e-6), C the cosines of the guide, 0 below the threshold.

    Args:
        features: [P, D] MaskCLIP's, not normalised.
        guide: [P, C] DINO's values (or keys) of the last block, all heads.
        threshold: published 0.2.

    Returns:
        [P, D].
    """
    unit = F.normalize(guide.float(), dim=1)
    alike = unit @ unit.t()
    alike = alike.masked_fill(alike < threshold, 0.0)
    return alike @ features.float() / (alike.sum(1, keepdim=True) + TINY)


def unsalient_background(probabilities: Tensor, salient: Tensor, least: float) -> Tensor:
    """[P] bool, patches that are background: not salient, and of no class surely.

    Args:
        probabilities: [K, P].
        salient: [P] bool.
        least: published 0.99.
    """
    return torch.logical_and(~salient, probabilities.amax(0) < least)
