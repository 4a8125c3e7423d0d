"""Multi-scale deformable attention as a module, with Deformable DETR's parameters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .operator import ms_deform_attn


class MSDeformAttn(nn.Module):
    """Multi-scale deformable attention layer (Zhu et al., Deformable DETR, section 4.1).

    Every query samples a few points around its reference on every level.

    Parameter names and initialisation are Deformable DETR's, so that published weights load.

    Args:
        embed_dim: channels C of queries and values.
        num_levels: maps L.
        num_heads: heads M.
        num_points: samples P a head and level.
        value_ratio: width of the projected values, relative to C.
    """

    def __init__(
        self,
        embed_dim: int = 256,
        num_levels: int = 4,
        num_heads: int = 8,
        num_points: int = 4,
        value_ratio: float = 1.0,
    ) -> None:
        super().__init__()
        inner = int(embed_dim * value_ratio)
        if inner % num_heads:
            raise ValueError(f"value width {inner} does not divide by {num_heads} heads")
        self.num_levels, self.num_heads, self.num_points = num_levels, num_heads, num_points
        samples = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, samples * 2)
        self.attention_weights = nn.Linear(embed_dim, samples)
        self.value_proj = nn.Linear(embed_dim, inner)
        self.output_proj = nn.Linear(inner, embed_dim)
        self._initialise()

    def _initialise(self) -> None:
        """Initialise offsets as rays: one direction a head, one step further a point."""
        angle = torch.arange(self.num_heads, dtype=torch.float32) * (2 * math.pi / self.num_heads)
        ray = torch.stack([angle.cos(), angle.sin()], dim=-1)
        ray = ray / ray.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.num_points + 1, dtype=torch.float32)
        bias = ray[:, None, None] * steps[None, None, :, None]
        bias = bias.expand(-1, self.num_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(bias.reshape(-1))
        for parameter in (self.sampling_offsets.weight, *self.attention_weights.parameters()):
            nn.init.zeros_(parameter)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        value: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
        padding_mask: Tensor | None = None,
    ) -> Tensor:
        """Project the values, sample them for every query, and project the result.

        Args:
            query: [B, Q, C], positions already added.
            reference_points: [B, Q, L, 2] points or [B, Q, L, 4] boxes cxcywh, in 0..1.
            value: [B, S, C].
            spatial_shapes: [L, 2] int64 (height, width).
            level_start_index: [L] int64.
            padding_mask: [B, S] bool, True where the value counts as zero.

        Returns:
            [B, Q, C].
        """
        values = self.values(value, padding_mask)
        return self.attend(query, reference_points, values, spatial_shapes, level_start_index)

    def values(self, value: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """Project the values and split them into heads.

        Args:
            value: [B, S, C].
            padding_mask: [B, S] bool, True where the result is zero.

        Returns:
            [B, S, M, C / M].
        """
        projected = self.value_proj(value)
        if padding_mask is not None:
            projected = projected.masked_fill(padding_mask[..., None], 0.0)
        return projected.unflatten(2, (self.num_heads, -1))

    def attend(
        self,
        query: Tensor,
        reference_points: Tensor,
        values: Tensor,
        spatial_shapes: Tensor,
        level_start_index: Tensor,
    ) -> Tensor:
        """Sample projected values; the result of a query does not depend on other queries.

        Args:
            query: [B, Q, C], positions already added.
            reference_points: [B, Q, L, 2] points or [B, Q, L, 4] boxes cxcywh, in 0..1.
            values: [B, S, M, C / M], the result of :meth:`values`.
            spatial_shapes: [L, 2] int64 (height, width).
            level_start_index: [L] int64.

        Returns:
            [B, Q, C].
        """
        batch, queries, _ = query.shape
        shape = (batch, queries, self.num_heads, self.num_levels, self.num_points)
        offsets = self.sampling_offsets(query).float().view(*shape, 2)
        weights = self.attention_weights(query).float().view(*shape[:3], -1)
        weights = weights.softmax(-1).view(shape)
        locations = self._locations(reference_points.float(), offsets, spatial_shapes)
        sampled = ms_deform_attn(values, spatial_shapes, level_start_index, locations, weights)
        return self.output_proj(sampled)

    def _locations(self, reference: Tensor, offsets: Tensor, spatial_shapes: Tensor) -> Tensor:
        """Compute sampling locations [B, Q, M, L, P, 2], with L, P and x, y as one dimension."""
        if reference.shape[-1] == 2:
            step = 1 / spatial_shapes.flip(1).to(offsets)[None, None]
        elif reference.shape[-1] == 4:
            step = reference[..., 2:] * (0.5 / self.num_points)
        else:
            raise ValueError(
                "reference_points must end in 2 or 4 numbers, and has shape "
                f"{tuple(reference.shape)}"
            )
        centre, step = (
            tensor[..., None, :].expand(-1, -1, -1, self.num_points, -1).flatten(2)[:, :, None]
            for tensor in (reference[..., :2], step)
        )
        return torch.addcmul(centre, offsets.flatten(3), step).view_as(offsets)
