"""Feature maps of several scales as one sequence of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hipie.modeling.transformer_decoder.reference_points import valid_ratios


@dataclass
class Levels:
    """L maps of B images, flattened and joined to S = sum of areas tokens.

    Attributes:
        tokens: [B, S, C].
        positions: [B, S, C] what is added to queries and keys.
        padding_mask: [B, S] bool, True where padded.
        shapes: [L, 2] int64 (height, width).
        starts: [L] int64, the first token of every level.
        ratios: [B, L, 2] share of every level that an image covers, (x, y).
        sizes: (height, width) of every level as Python numbers.
    """

    tokens: Tensor
    positions: Tensor
    padding_mask: Tensor
    shapes: Tensor
    starts: Tensor
    ratios: Tensor
    sizes: list[tuple[int, int]]

    def select(self, image: Tensor) -> Levels:
        """The levels of some images [n], each as often as it is named."""
        return replace(
            self,
            tokens=self.tokens[image],
            positions=self.positions[image],
            padding_mask=self.padding_mask[image],
            ratios=self.ratios[image],
        )

    def as_maps(self, tokens: Tensor) -> list[Tensor]:
        """[B, S, C] -> L maps [B, C, h, w]."""
        parts = tokens.split([h * w for h, w in self.sizes], dim=1)
        return [
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(parts, self.sizes, strict=True)
        ]

    def centres(self) -> Tensor:
        """[B, S, L, 2] every token's pixel centre, as a point (x, y) on each level's canvas."""
        points = []
        for level, (height, width) in enumerate(self.sizes):
            y, x = torch.meshgrid(
                torch.arange(height, device=self.tokens.device) + 0.5,
                torch.arange(width, device=self.tokens.device) + 0.5,
                indexing="ij",
            )
            grid = torch.stack([x, y], dim=-1).view(1, -1, 2)
            valid = self.ratios[:, level, None] * self.ratios.new_tensor([width, height])
            points.append(grid / valid)
        return torch.cat(points, dim=1)[:, :, None] * self.ratios[:, None]


def flatten_levels(
    maps: Sequence[Tensor], positions: Sequence[Tensor], padding_masks: Sequence[Tensor]
) -> Levels:
    """Join L maps [B, C, h, w], their positions (same shapes) and masks [B, h, w], in order."""
    sizes = [(one.shape[-2], one.shape[-1]) for one in maps]
    shapes = torch.tensor(sizes, dtype=torch.int64, device=maps[0].device)
    areas = shapes.prod(1)
    return Levels(
        tokens=torch.cat([one.flatten(2).transpose(1, 2) for one in maps], dim=1),
        positions=torch.cat([one.flatten(2).transpose(1, 2) for one in positions], dim=1),
        padding_mask=torch.cat([one.flatten(1) for one in padding_masks], dim=1),
        shapes=shapes,
        starts=areas.cumsum(0) - areas,
        ratios=torch.stack([valid_ratios(one) for one in padding_masks], dim=1),
        sizes=sizes,
    )


def shrink_mask(padding_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """A padding mask [B, H, W] at another size, by the nearest pixel."""
    return F.interpolate(padding_mask[:, None].float(), size=size)[:, 0].bool()
