"""MaskCLIP: dense features from CLIP's last block without its attention.

Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, sections 3.2 and 3.3. In the last
block every patch takes its own value: v = OutProj(V(LN(x))), y = x + v, y = y + MLP(LN(y)).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from hipie_training_free.modeling.clip_blocks import joined, queries_keys_values, with_residual

SCALE = 100.0
NEVER = -100.0


def maskclip_tokens(block: ResidualAttentionBlock, x: Tensor, keep_block: bool = True) -> Tensor:
    """[B, n, C] tokens after the last block.

    Args:
        block: the last one.
        x: [B, n, C] what enters it.
        keep_block: its residual and MLP stay, as in the authors' ViT; otherwise the values alone,
            as in later papers.
    """
    _, _, values = queries_keys_values(block, x)
    found = joined(block, values)
    return with_residual(block, x, found) if keep_block else found


def projected_keys(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """[B, patches, C] keys of the last block through its output projection, as the authors take."""
    _, keys, _ = queries_keys_values(block, x)
    return joined(block, keys)[:, 1:]


def denoise_prompts(cosines: Tensor, threshold: float) -> Tensor:
    """Prompt denoising: a class that is likely nowhere in the image is nowhere.

    Args:
        cosines: [N, ...] of every name, at all patches.
        threshold: the highest probability (softmax of 100 times the cosine) that a name has to
            reach at some patch; published 0.5.

    Returns:
        The same, -100 for the names that do not.
    """
    highest = (SCALE * cosines).softmax(0).flatten(1).amax(1)
    absent = (highest < threshold).view(-1, *[1] * (cosines.ndim - 1))
    return cosines.masked_fill(absent, NEVER)


def smooth_by_keys(
    probabilities: Tensor, keys: Tensor, threshold: float, along_patches: bool = True
) -> Tensor:
    """Key smoothing: unsure patches take what patches with similar keys say.

    Args:
        probabilities: [N, P].
        keys: [P, C].
        threshold: patches whose highest probability is below it are smoothed; published 1, which
            is nearly everywhere.
        along_patches: every channel of the keys is made of unit length over all patches, as the
            authors' code does; otherwise every key, as their paper reads.

    Returns:
        [N, P], smoothed ones not of sum 1.
    """
    unit = F.normalize(keys.float(), dim=0 if along_patches else 1)
    smooth = probabilities @ (unit @ unit.t())
    return torch.where(probabilities.amax(0) < threshold, smooth, probabilities)
