"""The three maps beside the vision transformer: their sizes, centres, and sine positions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STRIDES = (8, 16, 32)
TEMPERATURE = 10000.0


@dataclass(frozen=True)
class Maps:
    """Maps laid out as one row of tokens.

    Attributes:
        sizes: (height, width) of every map.
        shapes: the same as [L, 2] int64.
        starts: [L] int64, first token of every map.
        centres: [1, S, 1, 2] centres (x, y) of all tokens, 0..1.
    """

    sizes: tuple[tuple[int, int], ...]
    shapes: Tensor
    starts: Tensor
    centres: Tensor

    @classmethod
    def of(cls, sizes: tuple[tuple[int, int], ...], device: torch.device) -> Maps:
        """Maps of given sizes."""
        shapes = torch.tensor(sizes, dtype=torch.int64, device=device)
        lengths = shapes.prod(1)
        centres = torch.cat([_centres(*size, device) for size in sizes])
        return cls(sizes, shapes, lengths.cumsum(0) - lengths, centres[None, :, None])

    @property
    def lengths(self) -> list[int]:
        """Tokens of every map."""
        return [height * width for height, width in self.sizes]


def pyramid(height: int, width: int, device: torch.device) -> Maps:
    """The maps at 1/8, 1/16 and 1/32 of an image."""
    return Maps.of(tuple((height // s, width // s) for s in STRIDES), device)


def sine_positions(sizes: tuple[tuple[int, int], ...], width: int, device: torch.device) -> Tensor:
    """Sine positions of every map's tokens, without any learned part.

    Rows and columns are numbered 1..n and scaled to 0..2 pi; of `width` features the first half
    are of the row, the second of the column, sine and cosine in turn (DETR's normalised form).

    Returns:
        [S, width] float32.
    """
    half = width // 2
    exponent = torch.arange(half, dtype=torch.float32, device=device).div(2).floor() * (2.0 / half)
    period = TEMPERATURE**exponent
    rows = []
    for height, columns in sizes:
        by_row = _waves(height, period)[:, None].expand(-1, columns, -1)
        by_column = _waves(columns, period)[None].expand(height, -1, -1)
        rows.append(torch.cat([by_row, by_column], dim=-1).flatten(0, 1))
    return torch.cat(rows)


def _waves(count: int, period: Tensor) -> Tensor:
    place = torch.arange(1, count + 1, dtype=torch.float32, device=period.device)
    angle = (place / (count + 1e-6) * (2 * math.pi))[:, None] / period
    even = torch.arange(len(period), device=period.device) % 2 == 0
    return torch.where(even, angle.sin(), angle.cos())


def _centres(height: int, width: int, device: torch.device) -> Tensor:
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width
    return torch.stack([x.expand(height, -1), y[:, None].expand(-1, width)], dim=-1).flatten(0, 1)
