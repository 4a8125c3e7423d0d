"""Multi-scale deformable attention in plain PyTorch: the meaning of the operator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_reference(
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Weighted bilinear samples of several maps (Zhu et al., Deformable DETR, equation 3).

    Args:
        value: [B, S, M, D], S tokens of L maps one after another, M heads of width D.
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64, the first token of every map.
        sampling_locations: [B, Q, M, L, P, 2] (x, y) in 0..1; outside counts as zero.
        attention_weights: [B, Q, M, L, P].

    Returns:
        [B, Q, M * D].
    """
    batch, _, heads, width = value.shape
    queries = sampling_locations.shape[1]
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1)
    weights = attention_weights.transpose(1, 2).flatten(0, 1)
    total = value.new_zeros(batch * heads, width, queries)
    for level, (height, columns) in enumerate(spatial_shapes.tolist()):
        start = int(level_start_index[level])
        tokens = value[:, start : start + height * columns]
        image = tokens.permute(0, 2, 3, 1).reshape(batch * heads, width, height, columns)
        samples = F.grid_sample(
            image, grids[:, :, level].to(image.dtype), padding_mode="zeros", align_corners=False
        )
        total = total + (samples * weights[:, None, :, level].to(image.dtype)).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2)
