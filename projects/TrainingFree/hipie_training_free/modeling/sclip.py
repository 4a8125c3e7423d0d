"""SCLIP: in CLIP's last block, patches attend to patches that ask or answer alike.

Wang, Mei, Yuille, "SCLIP: Rethinking Self-Attention for Dense Vision-Language Inference", ECCV
2024, equation 3: the weights are softmax(Q Q^T / sqrt(d)) + softmax(K K^T / sqrt(d)), a sum and no
mean; everything else of the block stays.
"""

from __future__ import annotations

from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor

from hipie_training_free.modeling.clip_blocks import joined, queries_keys_values, with_residual


def sclip_tokens(block: ResidualAttentionBlock, x: Tensor) -> Tensor:
    """[B, n, C] tokens after the last block.

    Args:
        block: the last one.
        x: [B, n, C] what enters it.
    """
    queries, keys, values = queries_keys_values(block, x)
    weights = correlation(queries) + correlation(keys)
    return with_residual(block, x, joined(block, weights.to(values.dtype) @ values))


def correlation(rows: Tensor) -> Tensor:
    """[..., n, n] softmax of the scaled products of rows [..., n, d] with each other."""
    return (rows * rows.shape[-1] ** -0.5 @ rows.transpose(-1, -2)).softmax(-1)
