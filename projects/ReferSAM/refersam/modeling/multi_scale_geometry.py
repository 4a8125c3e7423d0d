"""Sizes, reference points and sine positions of the feature maps of the interactor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hipie.modeling.device_transfer import to_device
from hipie.modeling.transformer_decoder.position_encoding import sine_position_embedding

STRIDES = (8, 16, 32)
# Names of the maps by stride in captured features, those of the authors.
MAP_NAMES = {8: "c2", 16: "c3", 32: "c4"}


@dataclass(frozen=True)
class MultiScaleGeometry:
    """Geometry of L feature maps whose positions are concatenated to S tokens.

    Attributes:
        sizes: (height, width) of every map.
        spatial_shapes: the same as [L, 2] int64.
        level_start_index: [L] int64, index of the first token of every map.
        reference_points: [1, S, 1, 2] centres (x, y) of all tokens in 0..1.
    """

    sizes: tuple[tuple[int, int], ...]
    spatial_shapes: Tensor
    level_start_index: Tensor
    reference_points: Tensor

    @classmethod
    def from_sizes(
        cls, sizes: tuple[tuple[int, int], ...], device: torch.device
    ) -> MultiScaleGeometry:
        """Build the geometry of maps with these (height, width)."""
        areas = [height * width for height, width in sizes]
        rows = [(*size, sum(areas[:i])) for i, size in enumerate(sizes)]
        tables = to_device(torch.tensor(rows), device)
        centres = torch.cat([_centres(*size, device) for size in sizes])
        shapes, starts = tables[:, :2].contiguous(), tables[:, 2].contiguous()
        return cls(sizes, shapes, starts, centres[None, :, None])

    @classmethod
    def of_image(
        cls, height: int, width: int, device: torch.device, strides: Sequence[int] = STRIDES
    ) -> MultiScaleGeometry:
        """Build the geometry of an image's maps at some strides."""
        return cls.from_sizes(tuple((height // s, width // s) for s in strides), device)

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of every map."""
        return [height * width for height, width in self.sizes]


def sine_positions(sizes: tuple[tuple[int, int], ...], width: int, device: torch.device) -> Tensor:
    """Compute sine position embeddings for the tokens of several maps.

    Rows and columns are numbered 1..n and scaled to 0..2 pi; the first half of the `width` channels
    encodes the row, the second the column, sine and cosine alternating (DETR's normalised form).

    Args:
        sizes: (height, width) of every map.
        width: number of channels.
        device: device of the result.

    Returns:
        [S, width] float32.
    """
    maps = [
        sine_position_embedding(torch.zeros(1, *size, dtype=torch.bool, device=device), width)
        for size in sizes
    ]
    return torch.cat([embedding[0].flatten(1).t() for embedding in maps])


def level_positions(geometry: MultiScaleGeometry, level_embedding: Tensor) -> Tensor:
    """Add a learned embedding [L, C] of each level to the sine positions: [1, S, C]."""
    levels = torch.cat(
        [
            embedding.expand(length, -1)
            for embedding, length in zip(level_embedding, geometry.lengths, strict=True)
        ]
    )
    sines = sine_positions(geometry.sizes, level_embedding.shape[1], level_embedding.device)
    return (sines + levels)[None]


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
