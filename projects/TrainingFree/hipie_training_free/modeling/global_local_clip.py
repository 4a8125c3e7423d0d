"""Global-local CLIP: which mask an expression means, by CLIP alone.

Yu, Seo, Son, "Zero-shot Referring Image Segmentation with Global-Local Context Features", CVPR
2023, sections 3.2 and 3.3. A mask's feature mixes the whole image seen through the mask (what
enters the last blocks is multiplied by it) with the mask cut out; an expression's mixes it with the
phrase that names its target.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from open_clip.transformer import VisionTransformer
from torch import Tensor

from hipie.modeling.open_vocabulary.clip import Clip, require_masks
from hipie.modeling.open_vocabulary.masked_attention_pooling import project
from hipie_training_free.modeling.clip_blocks import last_blocks, tokens_before

MASKS_AT_ONCE = 32
# What is cut out stands on ImageNet's mean colour.
AROUND = (0.485, 0.456, 0.406)
# Words before which the phrase that names the target is over.
ENDS = re.compile(
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
    """[N, D] the class token's feature where patches fade outside a mask; not normalised.

    Args:
        visual: a ViT of open_clip.
        pixels: [1, 3, H, W] normalised.
        masks: [N, h, w] the share of every patch that a mask covers, 0..1.
        blocks: so many last ones see faded patches; published: 3 of 12.
    """
    changed = last_blocks(visual, blocks)
    start = tokens_before(visual, pixels, blocks)
    found = []
    for part in masks.flatten(1).to(start.dtype).split(MASKS_AT_ONCE):
        shown = F.pad(part, (1, 0), value=1.0)[:, :, None]
        x = start.expand(len(part), -1, -1)
        for block in changed:
            x = block(x * shown)
        found.append(project(visual, x[:, 0]))
    return torch.cat(found)


def local_features(clip: Clip, image: Tensor, masks: Tensor) -> Tensor:
    """[N, D] features of masks [N, H, W] bool cut out of an image [3, H, W]; not normalised."""
    return torch.cat(
        [clip.model.encode_image(clip.prepare(crops)) for crops in _cut_out(clip, image, masks)]
    )


@torch.no_grad()
def mask_features(
    clip: Clip, image: Tensor, masks: Tensor, weight: float = 0.85, blocks: int = 3
) -> Tensor:
    """[N, D] unit features: weight times the global one and the rest of the local one.

    Args:
        clip: with a ViT.
        image: [3, H, W] RGB in 0..1.
        masks: [N, H, W] bool.
        weight: published 0.85 for RefCOCOg, 0.95 for RefCOCO and RefCOCO+.
        blocks: see `global_features`.

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
    """[K, D] unit features: weight times the expression's and the rest of its target's."""
    whole = clip.text_features(expressions, "none")
    target = clip.text_features([target_phrase(one) for one in expressions], "none")
    return F.normalize(weight * whole + (1 - weight) * target, dim=-1)


def target_phrase(expression: str) -> str:
    """What comes before the first word of place, relation or doing: "the red car" of "the red car
    on the left"; the expression itself where nothing comes before.
    """
    words = expression.split()
    for place, word in enumerate(words):
        if ENDS.fullmatch(word.strip(".,;:!?").lower()):
            found = " ".join(words[:place]).rstrip(" .,;:")
            articles = {"a", "an", "the"}
            return expression if not found or found.lower() in articles else found
    return expression


def _cut_out(clip: Clip, image: Tensor, masks: Tensor) -> Iterator[Tensor]:
    around = image.new_tensor(AROUND).view(3, 1, 1)
    for part in masks.split(MASKS_AT_ONCE):
        crops = []
        for mask in part:
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            crop = torch.where(mask[box], image[:, box[0], box[1]], around)
            crops.append(F.interpolate(crop[None], size=clip.image_size, mode="bilinear")[0])
        yield torch.stack(crops)
