"""SCLIP: correlative self-attention in CLIP's last block.

Wang, Mei, Yuille, "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV
2024, equation 3: the weights are softmax(Q Q^T / sqrt(d)) + softmax(K K^T / sqrt(d)), a sum and no
mean; the rest of the block is unchanged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detectron2.config import configurable
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


@META_ARCH_REGISTRY.register()
class SCLIP(DenseCLIP):
    """CLIP with correlative self-attention in the last block.

    Args:
        clip: with a ViT that has a class token.
        configs: configurations of `DenseCLIP`.
    """

    @configurable
    def __init__(self, *, clip: Clip, **configs: Any) -> None:
        super().__init__(clip=clip, **configs)

    def tokens(self, pixels: Tensor) -> Tensor:
        """Compute the tokens; see `DenseCLIP.tokens`."""
        block = last_blocks(self.clip.visual, 1)[0]
        return sclip_tokens(block, tokens_before(self.clip.visual, pixels, 1))


def sclip_tokens(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """Compute the tokens after the last block.

    Args:
        block: the last block.
        x: [B, n, C] its input.

    Returns:
        [B, n, C].
    """
    queries, keys, values = queries_keys_values(block, x)
    weights = correlation(queries) + correlation(keys)
    return add_residual_and_mlp(block, x, merge_heads(block, weights.to(values.dtype) @ values))


def correlation(x: Tensor) -> Tensor:
    """Softmax of the scaled dot products of [..., n, d] with each other: [..., n, n]."""
    return (x * x.shape[-1] ** -0.5 @ x.transpose(-1, -2)).softmax(-1)
