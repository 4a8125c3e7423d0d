"""The pieces of a block of CLIP's image tower, which the dense methods put together anew.

Tokens are [B, n, C], the class token first; by head they are [B, heads, n, C / heads].
"""

from __future__ import annotations

import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock, VisionTransformer
from torch import Tensor

from hipie.modeling.open_vocabulary.masked_attention_pooling import embed, project
from hipie_training_free.error import TrainingFreeError


def last_blocks(visual: VisionTransformer, count: int) -> tuple[ResidualAttentionBlock, ...]:
    """The last `count` blocks, first one first.

    Raises:
        TrainingFreeError: if the tower has fewer, or none are asked for.
    """
    blocks = tuple(visual.transformer.resblocks)
    if not 1 <= count <= len(blocks):
        raise TrainingFreeError(
            f"{count} last blocks are asked for, and the image tower has {len(blocks)}"
        )
    return blocks[-count:]


def tokens_before(visual: VisionTransformer, pixels: Tensor, count: int) -> Tensor:
    """[B, 1 + patches, C] what enters the last `count` blocks.

    Args:
        visual: a ViT of open_clip.
        pixels: [B, 3, H, W] normalised, sides multiples of the patch.
        count: blocks that are left to run.
    """
    x = embed(visual, pixels)
    for block in visual.transformer.resblocks[: len(visual.transformer.resblocks) - count]:
        x = block(x)
    return x


def queries_keys_values(block: ResidualAttentionBlock, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the normed tokens, by head."""
    attention = block.attn
    together = F.linear(block.ln_1(x), attention.in_proj_weight, attention.in_proj_bias)
    q, k, v = (
        part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for part in together.chunk(3, dim=-1)
    )
    return q, k, v


def joined(block: ResidualAttentionBlock, by_head: Tensor) -> Tensor:
    """What was found by head through the attention's output projection: [B, n, C]."""
    return block.attn.out_proj(by_head.transpose(1, 2).flatten(2))


def with_residual(block: ResidualAttentionBlock, x: Tensor, found: Tensor) -> Tensor:
    """The rest of a block: `found` [B, n, C] is added to `x`, then the MLP's answer."""
    x = x + block.ls_1(found)
    return x + block.ls_2(block.mlp(block.ln_2(x)))


def patch_features(visual: VisionTransformer, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, D, h, w] unit features of the patches among tokens [B, 1 + h w, C] of the last block."""
    found = F.normalize(project(visual, tokens[:, 1:]).float(), dim=-1)
    return found.transpose(1, 2).unflatten(2, grid)
