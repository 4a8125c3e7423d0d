"""FOUND's first stage: what is not like the patch that nobody looks at is salient.

Simeoni, Sekkat, Puy, Vobecky, Zablocki, Perez, "Unsupervised Object Localization: Observing the
Background to Discover Objects", CVPR 2023, section 3.1. No part of it is trained; the paper's
second stage, one trained convolution that makes the masks finer, is not here.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

THRESHOLD = 0.3
TINY = 1e-10


def head_weights(attention: Tensor) -> Tensor:
    """How much each head counts: log(sum of all heads' shares / its own share).

    A head's share is that of the patches that get more attention than the mean over all heads and
    patches, so that heads that look at little count more.

    Args:
        attention: [heads, P] of the class token in the last block.

    Returns:
        [heads].
    """
    shares = (attention > attention.mean()).float().mean(1) + TINY
    return (shares.sum() / shares).log()


def salient_patches(keys: Tensor, attention: Tensor, threshold: float = THRESHOLD) -> Tensor:
    """[P] bool, patches that are not background.

    The background's seed is the patch with the least attention, heads weighted; background are the
    patches whose keys, heads weighted likewise, have a cosine with the seed's above the threshold.

    Args:
        keys: [P, C] of DINO's last block, heads side by side.
        attention: [heads, P] of the class token there.
        threshold: published 0.3.
    """
    weights = head_weights(attention.float())
    by_head = keys.float().unflatten(1, (len(weights), -1)) * weights[:, None]
    unit = F.normalize(by_head.flatten(1), dim=1)
    seed = (weights[:, None] * attention.float()).sum(0).argmin()
    return torch.mv(unit, unit[seed]) <= threshold
