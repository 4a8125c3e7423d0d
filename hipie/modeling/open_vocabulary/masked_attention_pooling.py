"""CLIP's image tower looking at many masks of one image in one pass (MaskCLIP, Ding et al. 2022).

Every mask gets a copy of the class token that sees the class token itself and the patches of its
mask, and no other mask; image and patches never see the copies. So what a copy attends to at a
layer does not depend on it: keys and values of the image are made once, and any number of masks
follow later.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor, nn

VISIBLE = 0.5


def has_class_token(visual: nn.Module) -> bool:
    """Whether an image tower of open_clip is a plain ViT whose class token is its feature."""
    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and all(
            type(block) is ResidualAttentionBlock and block.attn.in_proj_weight is not None
            for block in visual.transformer.resblocks
        )
    )


def embed(visual: VisionTransformer, pixels: Tensor) -> Tensor:
    """What enters the first block: class token and patches with their places.

    Args:
        visual: a ViT of open_clip.
        pixels: [B, 3, H, W] normalised; H and W multiples of the patch. Where the grid is not the
            one trained with, the table of places is resized bicubically (the class token's stays).

    Returns:
        [B, 1 + patches, C].
    """
    patches = visual.conv1(pixels)
    grid = tuple(patches.shape[-2:])
    tokens = patches.flatten(2).transpose(1, 2)
    first = visual.class_embedding.to(tokens.dtype).expand(len(tokens), 1, -1)
    places = visual.positional_embedding.to(tokens.dtype)
    if grid != tuple(visual.grid_size):
        table = places[1:].t().reshape(1, -1, *visual.grid_size)
        resized = F.interpolate(table.float(), size=grid, mode="bicubic", align_corners=False)
        places = torch.cat([places[:1], resized[0].flatten(1).t().to(places.dtype)])
    return visual.ln_pre(torch.cat([first, tokens], dim=1) + places)


@dataclass(frozen=True)
class EncodedImage:
    """One image inside CLIP's ViT.

    Attributes:
        visual: the image tower.
        start: [1, C] the class token before the first block.
        seen: of every block keys and values [heads, 1 + patches, C / heads].
        tokens: [1 + patches, C] after the last block.
        grid: patches down and across.
    """

    visual: VisionTransformer
    start: Tensor
    seen: tuple[tuple[Tensor, Tensor], ...]
    tokens: Tensor
    grid: tuple[int, int]

    @property
    def image_feature(self) -> Tensor:
        """[D] CLIP's feature of the whole image, not normalised."""
        return project(self.visual, self.tokens[0])

    @property
    def patch_features(self) -> Tensor:
        """[h, w, D] features of the patches after the last block, not normalised."""
        return project(self.visual, self.tokens[1:]).unflatten(0, self.grid)

    def mask_features(self, visible: Tensor) -> Tensor:
        """Features of masks, not normalised.

        Args:
            visible: [N, h, w] bool, the patches that each mask sees; one that sees none is the
                class token alone.

        Returns:
            [N, D]; the feature of a mask that sees all is the image's own.
        """
        x = self.start.expand(len(visible), -1)
        shown = F.pad(visible.flatten(1), (1, 0), value=True)
        for block, (keys, values) in zip(self.visual.transformer.resblocks, self.seen, strict=True):
            x = _through(block, x, _queries(block, x), keys, values, shown)
        return project(self.visual, x)


def encode(visual: VisionTransformer, pixels: Tensor) -> EncodedImage:
    """Run one image through the tower and keep what its masks will look at.

    Args:
        visual: a ViT for which `has_class_token`.
        pixels: [3, H, W] normalised, sides multiples of the patch.
    """
    x = embed(visual, pixels[None])[0]
    start, seen = x[:1], []
    for block in visual.transformer.resblocks:
        queries, keys, values = _queries_keys_values(block, x)
        seen.append((keys, values))
        x = _through(block, x, queries, keys, values, None)
    grid = tuple(
        side // patch for side, patch in zip(pixels.shape[-2:], visual.patch_size, strict=True)
    )
    return EncodedImage(visual, start, tuple(seen), x, grid)


def visible_patches(mask_logits: Tensor, size: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    """Which patches soft masks reach: somewhere in the patch the mask is as likely as not.

    Args:
        mask_logits: [N, h, w] of the whole image, at any resolution.
        size: (height, width) of the image inside CLIP.
        patch: (height, width) of a patch.

    Returns:
        [N, size / patch] bool.
    """
    full = F.interpolate(mask_logits.float()[None], size=size, mode="bilinear")[0]
    return F.max_pool2d(full.sigmoid()[None], patch, patch)[0] >= VISIBLE


def patches_under(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which patches have at least one pixel of binary masks.

    Args:
        masks: [N, H, W] bool.
        grid: patches down and across.

    Returns:
        [N, *grid] bool.
    """
    down, across = (
        _reached(side, count).to(masks.device)
        for side, count in zip(masks.shape[-2:], grid, strict=True)
    )
    # Products of zeros and ones count the pixels; that is several times faster than pooling.
    return down @ (masks.float() @ across.t()) > 0


def _reached(side: int, count: int) -> Tensor:
    """[count, side] 1 where a pixel lies in a patch, if only in part."""
    pixel, patch = torch.arange(side), torch.arange(count)[:, None]
    inside = (pixel >= patch * side // count) & (pixel < -(-(patch + 1) * side // count))
    return inside.float()


def project(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """[..., C] tokens after the last block -> [..., D] in the space of images and texts."""
    normed = visual.ln_post(tokens)
    return normed if visual.proj is None else normed @ visual.proj.to(normed.dtype)


def _through(
    block: ResidualAttentionBlock,
    x: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    shown: Tensor | None,
) -> Tensor:
    """[n, C] after a block; `shown` [n, 1 + patches] bool is what each row may look at."""
    found = F.scaled_dot_product_attention(
        queries[None], keys[None], values[None], attn_mask=None if shown is None else shown[None]
    )[0]
    x = x + block.ls_1(block.attn.out_proj(found.transpose(0, 1).flatten(1)))
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def _queries(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    width = x.shape[-1]
    part = F.linear(block.ln_1(x), weight[:width], None if bias is None else bias[:width])
    return _by_head(part, block.attn.num_heads)


def _queries_keys_values(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, ...]:
    together = F.linear(block.ln_1(x), block.attn.in_proj_weight, block.attn.in_proj_bias)
    return tuple(_by_head(part, block.attn.num_heads) for part in together.chunk(3, dim=-1))


def _by_head(rows: Tensor, heads: int) -> Tensor:
    """[n, C] -> [heads, n, C / heads]."""
    return rows.unflatten(-1, (heads, -1)).transpose(0, 1)
