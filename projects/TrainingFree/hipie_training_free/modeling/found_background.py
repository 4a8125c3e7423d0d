"""FOUND's first stage: patches that differ from the patch of least attention are salient.

Simeoni, Sekkat, Puy, Vobecky, Zablocki, Perez, "Unsupervised Object Localization: Observing the
Background to Discover Objects", CVPR 2023, section 3.1. The stage is not trained; the paper's
second stage, a trained convolution that refines the masks, is not included.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.3
EPS = 1e-10


def head_weights(attention: Tensor) -> Tensor:
    """Compute the weight of each head: log(sum of all heads' shares / its own share).

    A head's share is that of the patches with more attention than the mean over all heads and
    patches, so that heads that attend to few patches have a larger weight.

    Args:
        attention: [heads, P] of the class token in the last block.

    Returns:
        [heads].
    """
    shares = (attention > attention.mean()).float().mean(1) + EPS
    return (shares.sum() / shares).log()


def salient_patches(keys: Tensor, attention: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """Find the patches that are not background.

    The seed of the background is the patch with the least attention, weighted by head. Patches are
    background if the cosine of their keys, weighted likewise, with the seed's is above the
    threshold.

    Args:
        keys: [P, C] of DINO's last block, concatenated heads.
        attention: [heads, P] of the class token in that block.
        threshold: published 0.3.

    Returns:
        [P] bool.
    """
    weights = head_weights(attention.float())
    by_head = keys.float().unflatten(1, (len(weights), -1)) * weights[:, None]
    unit = F.normalize(by_head.flatten(1), dim=1)
    seed = (weights[:, None] * attention.float()).sum(0).argmin()
    return torch.mv(unit, unit[seed]) <= threshold
