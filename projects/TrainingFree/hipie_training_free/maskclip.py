"""MaskCLIP: dense features from CLIP's last block without its attention.

Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, sections 3.2 and 3.3. In the last
block the attention of every patch is replaced by its value: v = OutProj(V(LN(x))), y = x + v,
y = y + MLP(LN(y)).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip
from hipie.modeling.open_vocabulary.clip_blocks import (
    add_residual_and_mlp,
    last_blocks,
    merge_heads,
    queries_keys_values,
    tokens_before,
)
from hipie_training_free.clip_dense import DenseCLIP

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock

DENOISING_SCALE = 100.0
ABSENT_COSINE = -100.0


@META_ARCH_REGISTRY.register()
class MaskCLIP(DenseCLIP):
    """CLIP whose last block uses the values of the patches instead of attention.

    Args:
        clip: with a ViT that has a class token.
        keep_block, prompt_denoising, key_smoothing, along_patches: MODEL.TRAINING_FREE.MASKCLIP.
        configs: configurations of `DenseCLIP`.
    """

    @configurable
    def __init__(
        self,
        *,
        clip: Clip,
        keep_block: bool = True,
        prompt_denoising: float = 0.0,
        key_smoothing: float = 0.0,
        along_patches: bool = True,
        **configs: Any,
    ) -> None:
        super().__init__(clip=clip, **configs)
        self.keep_block = keep_block
        self.prompt_denoising = prompt_denoising
        self.key_smoothing = key_smoothing
        self.along_patches = along_patches

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.MASKCLIP
        return {
            **super().from_config(cfg),
            "keep_block": keys.KEEP_BLOCK,
            "prompt_denoising": keys.PROMPT_DENOISING,
            "key_smoothing": keys.KEY_SMOOTHING,
            "along_patches": keys.KEYS_ALONG_PATCHES,
        }

    def tokens(self, pixels: Tensor) -> Tensor:
        """Compute the tokens; see `DenseCLIP.tokens`."""
        block = last_blocks(self.clip.visual, 1)[0]
        return maskclip_tokens(block, tokens_before(self.clip.visual, pixels, 1), self.keep_block)

    def cosines(self, pixels: Tensor, text: Tensor) -> Tensor:
        """Compute cosines, or probabilities with key smoothing; see `DenseCLIP.cosines`."""
        cosines = super().cosines(pixels, text)
        if self.prompt_denoising > 0:
            cosines = denoise_prompts(cosines, self.prompt_denoising)
        if self.key_smoothing <= 0:
            return cosines
        probabilities = (self.classification.scale * cosines).softmax(0).flatten(1)
        visual = self.clip.visual
        keys = projected_keys(last_blocks(visual, 1)[0], tokens_before(visual, pixels, 1))[0]
        smooth = smooth_by_keys(probabilities, keys, self.key_smoothing, self.along_patches)
        return smooth.view_as(cosines)


def maskclip_tokens(block: ResidualAttentionBlock, x: Tensor, keep_block: bool = True) -> Tensor:
    """Compute the tokens after the last block.

    Args:
        block: the last block.
        x: [B, n, C] its input.
        keep_block: keep its residual and MLP, as in the authors' ViT; otherwise use the values
            alone, as in later papers.

    Returns:
        [B, n, C].
    """
    _, _, values = queries_keys_values(block, x)
    projected = merge_heads(block, values)
    return add_residual_and_mlp(block, x, projected) if keep_block else projected


def projected_keys(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """Compute the keys after the output projection, as the authors do: [B, patches, C]."""
    _, keys, _ = queries_keys_values(block, x)
    return merge_heads(block, keys)[:, 1:]


def denoise_prompts(cosines: Tensor, threshold: float) -> Tensor:
    """Prompt denoising: remove names that are unlikely at every patch.

    Args:
        cosines: [N, ...] of every name, at all patches.
        threshold: minimum of the highest probability of a name over the patches (softmax of 100
            times the cosine); published 0.5.

    Returns:
        The cosines, -100 for removed names.
    """
    highest = (DENOISING_SCALE * cosines).softmax(0).flatten(1).amax(1)
    absent = (highest < threshold).view(-1, *[1] * (cosines.ndim - 1))
    return cosines.masked_fill(absent, ABSENT_COSINE)


def smooth_by_keys(
    probabilities: Tensor, keys: Tensor, threshold: float, along_patches: bool = True
) -> Tensor:
    """Key smoothing: average uncertain patches over patches with similar keys.

    Args:
        probabilities: [N, P].
        keys: [P, C].
        threshold: patches whose highest probability is lower are smoothed; published 1, which
            smooths nearly all.
        along_patches: normalise every channel of the keys over the patches, as the authors' code
            does; otherwise normalise every key, as in their paper.

    Returns:
        [N, P]; smoothed patches do not sum to 1.
    """
    unit = F.normalize(keys.float(), dim=0 if along_patches else 1)
    smooth = probabilities @ (unit @ unit.t())
    return torch.where(probabilities.amax(0) < threshold, smooth, probabilities)
