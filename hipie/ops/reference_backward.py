"""Reference gradients of the operator in plain PyTorch, for where there is no kernel.

An operator's own backward runs below autograd, so the reference cannot be differentiated there.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ms_deform_attn_reference_backward(
    grad_output: Tensor,
    value: Tensor,
    spatial_shapes: Tensor,
    level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of value, locations and weights.

    Args:
        grad_output: [B, Q, M * D].
        value: [B, S, M, D].
        spatial_shapes: [L, 2] int64 (height, width).
        level_start_index: [L] int64.
        sampling_locations: [B, Q, M, L, P, 2].
        attention_weights: [B, Q, M, L, P].

    Returns:
        Three tensors of the shapes and dtypes of `value`, `sampling_locations` and
        `attention_weights`.
    """
    dtype = torch.promote_types(
        torch.promote_types(value.dtype, torch.float32), sampling_locations.dtype
    )
    heads, width = value.shape[2:]
    gradient = grad_output.to(dtype).unflatten(2, (heads, width)).transpose(1, 2)
    tables = value.to(dtype).transpose(1, 2)
    locations = sampling_locations.to(dtype).transpose(1, 2)
    weights = attention_weights.to(dtype).transpose(1, 2)
    grad_tables = torch.zeros_like(tables, memory_format=torch.contiguous_format)
    grad_locations, grad_weights = torch.zeros_like(locations), torch.zeros_like(weights)
    for level, (rows, columns) in enumerate(spatial_shapes.tolist()):
        if rows * columns == 0:
            continue
        size = locations.new_tensor([columns, rows])
        pixel = (locations[:, :, :, level] * size - 0.5).nan_to_num(-2.0)
        pixel = pixel.clamp(torch.full_like(size, -2.0), size + 1.0)
        low = pixel.floor()
        share, attention = pixel - low, weights[:, :, :, level]
        for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
            pixel_index = low.long() + torch.tensor(corner, device=low.device)
            inside = ((pixel_index >= 0) & (pixel_index < size)).all(-1)
            token = int(level_start_index[level]) + pixel_index[..., 1] * columns
            token = token + pixel_index[..., 0]
            token = torch.where(inside, token, 0).flatten(2)[..., None]
            token = token.expand(-1, -1, -1, width)
            across, down = (
                share[..., axis] if corner[axis] else 1 - share[..., axis] for axis in (0, 1)
            )
            sampled = tables.gather(2, token).view(*inside.shape, width)
            product = torch.where(inside, (sampled * gradient[:, :, :, None]).sum(-1), 0.0)
            grad_weights[:, :, :, level] += across * down * product
            slope = (
                attention
                * product
                * torch.stack([(2 * corner[0] - 1) * down, (2 * corner[1] - 1) * across])
            )
            grad_locations[:, :, :, level] += slope.movedim(0, -1) * size
            added = torch.where(inside, attention * across * down, 0.0)[..., None]
            grad_tables.scatter_add_(2, token, (added * gradient[:, :, :, None]).flatten(2, 3))
    return (
        grad_tables.transpose(1, 2).to(value.dtype).contiguous(),
        grad_locations.transpose(1, 2).to(sampling_locations.dtype).contiguous(),
        grad_weights.transpose(1, 2).to(attention_weights.dtype).contiguous(),
    )
