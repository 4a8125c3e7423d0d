"""Mask prompts: learned tokens in place of the patches outside a mask (OVSeg, section 3.3)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.masked_attention_pooling import project

INITIAL_STD = 0.02


class MaskPrompts(nn.Module):
    """Learned tokens of the first blocks of a ViT, one for each patch position.

    The tokens of the patches without any pixel of the mask are replaced before the position
    embeddings are added, and after each of the first `depth - 1` blocks. With depth 0 nothing is
    replaced.

    Args:
        depth: number of replacements.
        num_patches: patches of an image of CLIP's size.
        width: channels of a token.
    """

    def __init__(self, depth: int, num_patches: int, width: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(torch.empty(depth, num_patches, width))
        nn.init.normal_(self.tokens, std=INITIAL_STD)

    def forward(self, visual: Any, pixels: Tensor, masks: Tensor) -> Tensor:
        """Compute the features of masked crops.

        Args:
            visual: a ViT of open_clip for which `has_class_token`.
            pixels: [N, 3, H, W] normalised crops of CLIP's size.
            masks: [N, H, W] bool.

        Returns:
            [N, D], not normalised.
        """
        patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
        kept = F.max_pool2d(masks[:, None].float(), visual.patch_size, visual.patch_size)
        kept = kept.flatten(1)[..., None].to(patches.dtype)
        depth = len(self.tokens)
        if depth:
            patches = self._replace(patches, kept, 0)
        class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        tokens = torch.cat([class_token, patches], dim=1)
        tokens = visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))
        for index, block in enumerate(visual.transformer.resblocks, start=1):
            tokens = block(tokens)
            if index < depth:
                replaced = self._replace(tokens[:, 1:], kept, index)
                tokens = torch.cat([tokens[:, :1], replaced], dim=1)
        return project(visual, tokens[:, 0])

    def _replace(self, patches: Tensor, kept: Tensor, index: int) -> Tensor:
        return patches * kept + self.tokens[index].to(patches.dtype) * (1 - kept)


def require_depth(depth: int, num_blocks: int) -> None:
    """Check the number of mask prompts.

    Args:
        depth: MODEL.PROPOSAL_CLIP.MASK_PROMPT_DEPTH.
        num_blocks: of the ViT.

    Raises:
        InputError: if there are more prompts than blocks, or fewer than 0.
    """
    if not 0 <= depth <= num_blocks:
        raise InputError(
            f"MODEL.PROPOSAL_CLIP.MASK_PROMPT_DEPTH is {depth}; it has to be in 0..{num_blocks}, "
            "the number of blocks of CLIP's image encoder"
        )


def contrastive_loss(image_features: Tensor, text_features: Tensor, scale: Tensor) -> Tensor:
    """CLIP's loss: cross entropy of every image among all texts, and the other way round.

    Args:
        image_features: [N, D] of unit length.
        text_features: [N, D] of unit length, text i belongs to image i.
        scale: factor of the cosines.
    """
    logits = scale * image_features @ text_features.t()
    labels = torch.arange(len(logits), device=logits.device)
    by_image = F.cross_entropy(logits, labels)
    return (by_image + F.cross_entropy(logits.t(), labels)) / 2
