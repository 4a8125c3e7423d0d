"""Features of many masks of one image in one pass through CLIP's ViT (MaskCLIP, Ding et al. 2022).

Every mask has a copy of the class token that attends to the class token and the patches of its
mask only; image tokens never attend to the copies. The attention of a copy therefore does not
depend on the other copies: keys and values of the image are computed once, and the features of any
number of masks follow later.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

MASK_THRESHOLD = 0.5


def has_class_token(visual: nn.Module) -> bool:
    """Whether an image encoder of open_clip is a plain ViT whose output is its class token."""
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer

    return (
        isinstance(visual, VisionTransformer)
        and visual.attn_pool is None
        and visual.pool_type == "tok"
        and all(
            type(block) is ResidualAttentionBlock and block.attn.in_proj_weight is not None
            for block in visual.transformer.resblocks
        )
    )


def embed(
    visual: VisionTransformer,
    pixels: Tensor,
    *,
    resize_mode: str = "bicubic",
    class_weight: float = 1.0,
) -> Tensor:
    """Compute the input of the first block: class token and patch tokens with position embeddings.

    Args:
        visual: a ViT of open_clip.
        pixels: [B, 3, H, W] normalized; H and W multiples of the patch size. For another grid than
            in training, position embeddings are resized (except the class token's).
        resize_mode: interpolation of position embeddings, "bicubic" or "bilinear".
        class_weight: factor of the class embedding.

    Returns:
        [B, 1 + patches, C].
    """
    patches = visual.conv1(pixels)
    grid = tuple(patches.shape[-2:])
    tokens = patches.flatten(2).transpose(1, 2)
    class_token = class_weight * visual.class_embedding.to(tokens.dtype)
    class_token = class_token.expand(len(tokens), 1, -1)
    positions = visual.positional_embedding.to(tokens.dtype)
    if grid != tuple(visual.grid_size):
        grid_positions = positions[1:].t().reshape(1, -1, *visual.grid_size)
        resized = F.interpolate(
            grid_positions.float(), size=grid, mode=resize_mode, align_corners=False
        )
        positions = torch.cat([positions[:1], resized[0].flatten(1).t().to(positions.dtype)])
    return visual.ln_pre(torch.cat([class_token, tokens], dim=1) + positions)


@dataclass(frozen=True)
class EncodedImage:
    """Keys, values and tokens of one image in CLIP's ViT.

    Attributes:
        visual: the image encoder.
        class_token: [1, C] before the first block.
        keys_values: per block keys and values [heads, 1 + patches, C / heads].
        tokens: [1 + patches, C] after the last block.
        grid: number of patch rows and columns.
    """

    visual: VisionTransformer
    class_token: Tensor
    keys_values: tuple[tuple[Tensor, Tensor], ...]
    tokens: Tensor
    grid: tuple[int, int]

    @property
    def image_feature(self) -> Tensor:
        """[D] CLIP's image feature, not normalized."""
        return project(self.visual, self.tokens[0])

    @property
    def patch_features(self) -> Tensor:
        """[h, w, D] features of the patches after the last block, not normalized."""
        return project(self.visual, self.tokens[1:]).unflatten(0, self.grid)

    def mask_features(self, patch_masks: Tensor) -> Tensor:
        """Compute the features of masks.

        Args:
            patch_masks: [N, h, w] bool, patches of each mask; a mask without patches attends to
                the class token only.

        Returns:
            [N, D], not normalized; the feature of a mask of all patches is the image's feature.
        """
        tokens = self.class_token.expand(len(patch_masks), -1)
        attention_mask = F.pad(patch_masks.flatten(1), (1, 0), value=True)
        blocks = self.visual.transformer.resblocks
        for block, (keys, values) in zip(blocks, self.keys_values, strict=True):
            queries = _queries(block, tokens)
            tokens = _apply_block(block, tokens, queries, keys, values, attention_mask)
        return project(self.visual, tokens)


def encode(visual: VisionTransformer, pixels: Tensor) -> EncodedImage:
    """Encode one image and keep the keys and values that its masks attend to.

    Args:
        visual: a ViT for which `has_class_token`.
        pixels: [3, H, W] normalized, sides multiples of the patch size.
    """
    tokens = embed(visual, pixels[None])[0]
    class_token, keys_values = tokens[:1], []
    for block in visual.transformer.resblocks:
        queries, keys, values = _queries_keys_values(block, tokens)
        keys_values.append((keys, values))
        tokens = _apply_block(block, tokens, queries, keys, values, None)
    rows, columns = (
        side // patch for side, patch in zip(pixels.shape[-2:], visual.patch_size, strict=True)
    )
    return EncodedImage(visual, class_token, tuple(keys_values), tokens, (rows, columns))


def patches_of_soft_masks(
    mask_logits: Tensor, size: tuple[int, int], patch: tuple[int, int]
) -> Tensor:
    """Select the patches in which a soft mask reaches probability 0.5.

    Args:
        mask_logits: [N, h, w] of the whole image, at any resolution.
        size: (height, width) of the image inside CLIP.
        patch: (height, width) of a patch.

    Returns:
        [N, size / patch] bool.
    """
    resized_logits = F.interpolate(mask_logits.float()[None], size=size, mode="bilinear")[0]
    return F.max_pool2d(resized_logits.sigmoid()[None], patch, patch)[0] >= MASK_THRESHOLD


def patches_of_masks(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Select the patches that contain at least one pixel of a binary mask.

    Args:
        masks: [N, H, W] bool.
        grid: number of patch rows and columns.

    Returns:
        [N, *grid] bool.
    """
    rows, columns = (
        _pixels_of_patches(side, count).to(masks.device)
        for side, count in zip(masks.shape[-2:], grid, strict=True)
    )
    # Products of zeros and ones count the pixels, several times faster than pooling.
    return rows @ (masks.float() @ columns.t()) > 0


def _pixels_of_patches(side: int, count: int) -> Tensor:
    """[count, side] 1 where a pixel belongs to a patch, at least partly."""
    pixel, patch = torch.arange(side), torch.arange(count)[:, None]
    inside = (pixel >= patch * side // count) & (pixel < -(-(patch + 1) * side // count))
    return inside.float()


def project(visual: VisionTransformer, tokens: Tensor) -> Tensor:
    """Project tokens [..., C] after the last block to CLIP's joint space [..., D]."""
    normed = visual.ln_post(tokens)
    return normed if visual.proj is None else normed @ visual.proj.to(normed.dtype)


def _apply_block(
    block: ResidualAttentionBlock,
    tokens: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    attention_mask: Tensor | None,
) -> Tensor:
    """Tokens [n, C] after a block; `attention_mask` [n, 1 + patches] bool, True = attended."""
    mask = None if attention_mask is None else attention_mask[None]
    attended = F.scaled_dot_product_attention(
        queries[None], keys[None], values[None], attn_mask=mask
    )[0]
    tokens = tokens + block.ls_1(block.attn.out_proj(attended.transpose(0, 1).flatten(1)))
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))


def _queries(block: ResidualAttentionBlock, tokens: Tensor) -> Tensor:
    weight, bias = block.attn.in_proj_weight, block.attn.in_proj_bias
    width = tokens.shape[-1]
    queries = F.linear(block.ln_1(tokens), weight[:width], None if bias is None else bias[:width])
    return _split_heads(queries, block.attn.num_heads)


def _queries_keys_values(
    block: ResidualAttentionBlock, tokens: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    projected = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    queries, keys, values = (
        _split_heads(part, block.attn.num_heads) for part in projected.chunk(3, dim=-1)
    )
    return queries, keys, values


def _split_heads(tokens: Tensor, heads: int) -> Tensor:
    """[n, C] -> [heads, n, C / heads]."""
    return tokens.unflatten(-1, (heads, -1)).transpose(0, 1)
