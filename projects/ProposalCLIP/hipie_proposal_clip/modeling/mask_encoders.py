"""CLIP features of the masks of one image: from crops, or from attention inside the masks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import CROP_BATCH_SIZE, Clip
from hipie.modeling.open_vocabulary.masked_attention_pooling import patches_of_masks
from hipie_proposal_clip.modeling.mask_crops import masked_crops
from hipie_proposal_clip.modeling.mask_prompts import MaskPrompts, require_depth

DENSE, CROPS, CLASS_TOKEN = "dense", "crops", "class_token"
MASK_FEATURES = (DENSE, CROPS, CLASS_TOKEN)


def build_mask_prompts(clip: Clip, depth: int, mask_features: str) -> MaskPrompts | None:
    """Build the mask prompts of a CLIP; None for depth 0.

    Raises:
        InputError: if the image encoder is no ViT, if features are not of crops, or for a depth
            that it does not have.
    """
    if not depth:
        return None
    if mask_features != CROPS:
        raise InputError(
            "MODEL.PROPOSAL_CLIP.MASK_PROMPT_DEPTH needs MODEL.PROPOSAL_CLIP.MASK_FEATURES "
            f"'{CROPS}', not '{mask_features}'"
        )
    clip.require_mask_pooling()
    blocks = clip.visual.transformer.resblocks
    require_depth(depth, len(blocks))
    height, width = clip.visual.grid_size
    return MaskPrompts(depth, height * width, clip.visual.conv1.out_channels)


def fill_colour(clip: Clip) -> Tensor:
    """[3] CLIP's mean colour in 0..1, which becomes 0 when a crop is normalised."""
    return torch.tensor(clip.visual.image_mean, device=clip.device)


def crop_features(clip: Clip, image: Tensor, masks: Tensor, prompts: MaskPrompts | None) -> Tensor:
    """Features of masked crops, with gradients where enabled.

    Args:
        clip: any CLIP; with prompts one with a ViT.
        image: [3, H, W] RGB in 0..1.
        masks: [N, H, W] bool, none of them empty.
        prompts: replace the patches outside the masks; None = the patches stay.

    Returns:
        [N, D] of unit length.
    """
    if not len(masks):
        return image.new_zeros(0, clip.width)
    features = []
    for part in masks.split(CROP_BATCH_SIZE):
        crops, crop_masks = masked_crops(image, part, clip.image_size, fill_colour(clip))
        features.append(encode_crops(clip, crops, crop_masks, prompts))
    return torch.cat(features)


def encode_crops(
    clip: Clip, crops: Tensor, crop_masks: Tensor, prompts: MaskPrompts | None
) -> Tensor:
    """[N, D] unit features of crops [N, 3, h, w] in 0..1 of CLIP's size, and masks [N, h, w]."""
    pixels = clip.prepare(crops)
    if prompts is None:
        features = clip.model.encode_image(pixels)
    else:
        features = prompts(clip.visual, pixels, crop_masks)
    return F.normalize(features.float(), dim=-1)


def class_token_features(clip: Clip, image: Tensor, masks: Tensor) -> Tensor:
    """[N, D] unit features of a class token that attends to the patches of each mask.

    Args:
        clip: with a ViT that has a class token.
        image: [3, H, W] RGB in 0..1.
        masks: [N, H, W] bool.
    """
    encoded = clip.encode(image)
    patches = patches_of_masks(masks.to(image.device), encoded.grid)
    return F.normalize(encoded.mask_features(patches).float(), dim=-1)
