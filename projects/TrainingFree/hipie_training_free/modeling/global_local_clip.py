"""Global-local CLIP: similarity of masks and expressions by CLIP.

Yu, Seo, Son, "Zero-shot Referring Image Segmentation with Global-Local Context Features", CVPR
2023, sections 3.2 and 3.3. A mask's feature combines a global one (the input of the last
blocks is multiplied by the mask) with a local one of the masked crop; an expression's feature
combines the expression with the noun phrase of its target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip, require_masks
from hipie.modeling.open_vocabulary.clip_blocks import last_blocks, tokens_before
from hipie.modeling.open_vocabulary.masked_attention_pooling import project

if TYPE_CHECKING:
    from open_clip.transformer import VisionTransformer

MASKS_PER_FORWARD = 32
# Colour outside the mask in crops: ImageNet's mean.
FILL_COLOUR = (0.485, 0.456, 0.406)
# Words that end the noun phrase of the target.
PHRASE_END = re.compile(
    r"""
    about|above|across|against|along|among|around|at|away|back|behind|below|beneath|beside|
    between|beyond|by|close|closest|down|facing|far|farthest|for|from|front|furthest|having|
    holding|in|inside|into|is|leaning|looking|near|nearest|next|of|off|on|onto|out|outside|over|
    playing|riding|sitting|standing|talking|that|through|to|touching|toward|towards|under|up|
    using|walking|wearing|when|where|which|while|who|whose|with|without
    """,
    re.VERBOSE,
)


def global_features(
    visual: VisionTransformer, pixels: Tensor, masks: Tensor, blocks: int = 3
) -> Tensor:
    """Compute class-token features with patches multiplied by a mask; not normalised.

    Args:
        visual: a ViT of open_clip.
        pixels: [1, 3, H, W] normalised.
        masks: [N, h, w] share of every patch inside a mask, 0..1.
        blocks: number of last blocks whose input is multiplied; published 3 of 12.

    Returns:
        [N, D].
    """
    masked_blocks = last_blocks(visual, blocks)
    start = tokens_before(visual, pixels, blocks)
    features = []
    for part in masks.flatten(1).to(start.dtype).split(MASKS_PER_FORWARD):
        weights = F.pad(part, (1, 0), value=1.0)[:, :, None]
        x = start.expand(len(part), -1, -1)
        for block in masked_blocks:
            x = block(x * weights)
        features.append(project(visual, x[:, 0]))
    return torch.cat(features)


def local_features(clip: Clip, image: Tensor, masks: Tensor) -> Tensor:
    """Features [N, D] of masked crops of an image [3, H, W], masks [N, H, W]; not normalised."""
    return torch.cat(
        [
            clip.model.encode_image(clip.prepare(crops))
            for crops in _masked_crops(clip, image, masks)
        ]
    )


@torch.no_grad()
def mask_features(
    clip: Clip, image: Tensor, masks: Tensor, weight: float = 0.85, blocks: int = 3
) -> Tensor:
    """Combine global and local features of masks.

    Args:
        clip: with a ViT.
        image: [3, H, W] RGB in 0..1.
        masks: [N, H, W] bool.
        weight: weight of the global feature; published 0.85 for RefCOCOg, 0.95 for RefCOCO and
            RefCOCO+.
        blocks: see `global_features`.

    Returns:
        [N, D] unit features.

    Raises:
        ValueError: for an empty mask, or masks that are not the image's size.
    """
    clip.require_mask_pooling()
    require_masks(masks, tuple(image.shape[-2:]))
    pixels = clip.prepare(image[None])
    grid = tuple(
        side // patch for side, patch in zip(pixels.shape[-2:], clip.patch_size, strict=True)
    )
    shares = F.interpolate(
        masks[:, None].float(), size=grid, mode="bilinear", antialias=True, align_corners=False
    )[:, 0]
    mixed = weight * global_features(clip.visual, pixels, shares, blocks).float()
    return F.normalize(mixed + (1 - weight) * local_features(clip, image, masks).float(), dim=-1)


@torch.no_grad()
def expression_features(clip: Clip, expressions: list[str], weight: float = 0.5) -> Tensor:
    """Combine features of expressions and of their target phrases: [K, D] unit features."""
    full = clip.text_features(expressions, "none")
    target = clip.text_features([target_phrase(expression) for expression in expressions], "none")
    return F.normalize(weight * full + (1 - weight) * target, dim=-1)


def target_phrase(expression: str) -> str:
    """Return the noun phrase of the target, such as "the red car" of "the red car on the left".

    It ends before the first word of place, relation or activity; without text before such a word
    it is the expression itself.
    """
    words = expression.split()
    for index, word in enumerate(words):
        if PHRASE_END.fullmatch(word.strip(".,;:!?").lower()):
            phrase = " ".join(words[:index]).rstrip(" .,;:")
            articles = {"a", "an", "the"}
            return expression if not phrase or phrase.lower() in articles else phrase
    return expression


def _masked_crops(clip: Clip, image: Tensor, masks: Tensor) -> Iterator[Tensor]:
    fill = image.new_tensor(FILL_COLOUR).view(3, 1, 1)
    for part in masks.split(MASKS_PER_FORWARD):
        crops = []
        for mask in part:
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            crop = torch.where(mask[box], image[:, box[0], box[1]], fill)
            crops.append(F.interpolate(crop[None], size=clip.image_size, mode="bilinear")[0])
        yield torch.stack(crops)
