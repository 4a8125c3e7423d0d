"""Components of the blocks of CLIP's image tower, from which the dense methods are built.

Tokens are [B, n, C], the class token first; by head they are [B, heads, n, C / heads].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.open_vocabulary.error import OpenVocabularyError
from hipie.modeling.open_vocabulary.masked_attention_pooling import embed, project

if TYPE_CHECKING:
    from open_clip.transformer import ResidualAttentionBlock, VisionTransformer


def last_blocks(visual: VisionTransformer, count: int) -> tuple[ResidualAttentionBlock, ...]:
    """Return the last `count` blocks, in order.

    Raises:
        OpenVocabularyError: if the tower has fewer, or if `count` is below 1.
    """
    blocks = tuple(visual.transformer.resblocks)
    if not 1 <= count <= len(blocks):
        raise OpenVocabularyError(
            f"{count} last blocks are requested, and the image tower has {len(blocks)}"
        )
    return blocks[-count:]


def tokens_before(visual: VisionTransformer, pixels: Tensor, count: int) -> Tensor:
    """Compute the input of the last `count` blocks.

    Args:
        visual: a ViT of open_clip.
        pixels: [B, 3, H, W] normalised, sides that are multiples of the patch size.
        count: number of blocks that are not run.

    Returns:
        [B, 1 + patches, C].
    """
    x = embed(visual, pixels)
    for block in visual.transformer.resblocks[: len(visual.transformer.resblocks) - count]:
        x = block(x)
    return x


def queries_keys_values(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute queries, keys and values of the normalised tokens, by head."""
    attention = block.attn
    projected = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (
        chunk.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for chunk in projected.chunk(3, dim=-1)
    )
    return q, k, v


def merge_heads(block: ResidualAttentionBlock, by_head: Tensor) -> Tensor:
    """Merge heads and apply the attention's output projection: [B, n, C]."""
    return block.attn.out_proj(by_head.transpose(1, 2).flatten(2))


def add_residual_and_mlp(block: ResidualAttentionBlock, x: Tensor, attended: Tensor) -> Tensor:
    """Add the attention's result [B, n, C] to `x`, then the MLP's."""
    x = x + block.ls_1(attended)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def patch_features(visual: VisionTransformer, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Compute unit features of the patches.

    Args:
        visual: a ViT of open_clip.
        tokens: [B, 1 + h w, C] of the last block.
        grid: (h, w).

    Returns:
        [B, D, h, w].
    """
    features = F.normalize(project(visual, tokens[:, 1:]).float(), dim=-1)
    return features.transpose(1, 2).unflatten(2, grid)
