"""Multi-scale deformable attention by one GridSample a level, for exporters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def ms_deform_attn_grid_sample(
    value: Tensor,
    spatial_shapes: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> Tensor:
    """Split the levels, sample each by GridSample, and sum with the attention weights.

    Sizes may be unknown until the exported model runs. Levels follow one another and none is
    empty; locations must be finite.

    Args:
        value: [B, S, M, D].
        spatial_shapes: [L, 2] int64 (height, width).
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].

    Returns:
        [B, Q, M * D].
    """
    batch, tokens, heads, width = value.shape
    queries, levels, points = sampling_locations.shape[1], *sampling_locations.shape[3:5]
    sizes = spatial_shapes.tolist()
    for rows, columns in sizes:
        torch._check(rows >= 1)
        torch._check(columns >= 1)
    torch._check(sum(rows * columns for rows, columns in sizes) == tokens)
    maps = value.split([rows * columns for rows, columns in sizes], dim=1)
    grids = (2 * sampling_locations - 1).transpose(1, 2).flatten(0, 1).to(value.dtype)
    samples = []
    for level, (rows, columns) in enumerate(sizes):
        image = maps[level].permute(0, 2, 3, 1).reshape(batch * heads, width, rows, columns)
        samples.append(
            F.grid_sample(image, grids[:, :, level], padding_mode="zeros", align_corners=False)
        )
    weights = attention_weights.transpose(1, 2).to(value.dtype)
    weights = weights.reshape(batch * heads, 1, queries, levels * points)
    total = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2).contiguous()
