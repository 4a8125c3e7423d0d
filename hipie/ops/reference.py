"""Reference implementation of multi-scale deformable attention in plain PyTorch."""

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

    A location (x, y) is at pixel (x * width - 0.5, y * height - 0.5) of its map. Pixels outside a
    map count as zero, and so does a location that is not finite. Works on any
    device and dtype; dtypes below float32 are summed in float32. Differentiable, any order.

    Args:
        value: [B, S, M, D], S tokens of L maps one after another, M heads of width D.
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64, the first token of every map.
        sampling_locations: [B, Q, M, L, P, 2] (x, y) in 0..1.
        attention_weights: [B, Q, M, L, P].

    Returns:
        [B, Q, M * D] in the dtype of ``value``.
    """
    batch, _, heads, width = value.shape
    queries, points = sampling_locations.shape[1], sampling_locations.shape[4]
    dtype = torch.promote_types(
        torch.promote_types(value.dtype, torch.float32), sampling_locations.dtype
    )
    if batch * heads * width * queries * points == 0:
        inputs = (value, sampling_locations, attention_weights)
        zero = torch.stack([tensor.flatten()[:0].sum().to(dtype) for tensor in inputs]).sum()
        return zero.to(value.dtype).expand(batch, queries, heads * width)
    total = value.new_zeros((batch * heads, width, queries), dtype=dtype)
    locations = sampling_locations.to(dtype).transpose(1, 2).flatten(0, 1)
    weights = attention_weights.to(dtype).transpose(1, 2).flatten(0, 1)
    for level, (rows, columns) in enumerate(spatial_shapes.tolist()):
        if rows * columns == 0:
            continue
        start = int(level_start_index[level])
        tokens = value[:, start : start + rows * columns].to(dtype)
        image = tokens.permute(0, 2, 3, 1).reshape(batch * heads, width, rows, columns)
        grid, inside = _grid(locations[:, :, level], rows, columns)
        samples = F.grid_sample(image, grid, padding_mode="zeros", align_corners=False)
        level_weights = torch.where(inside, weights[:, :, level], 0.0)
        total = total + (samples * level_weights[:, None]).sum(-1)
    return total.view(batch, heads * width, queries).transpose(1, 2).to(value.dtype)


def _grid(locations: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Convert locations [..., 2] in 0..1 to a grid in -1..1, with a mask of those on the map."""
    x, y = locations.unbind(-1)
    inside = (x * columns > -0.5) & (x * columns < columns + 0.5)
    inside &= (y * rows > -0.5) & (y * rows < rows + 0.5)
    return 2 * torch.where(inside[..., None], locations, -4.0) - 1, inside
