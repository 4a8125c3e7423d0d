"""Convolutions beside the vision transformer, after ViT-Adapter (Chen et al., ICLR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

STEM = 64


class SpatialPrior(nn.Module):
    """A stem at 1/4 and three stages at 1/8, 1/16 and 1/32.

    Unlike ViT-Adapter's, its norms are over the whole map (one group), and the map at 1/4 has no
    projection. So what an image is padded with would change all of it.

    Args:
        width: D, channels of the three projected maps.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_stage(3, STEM, 2),
            *_stage(STEM, STEM, 1),
            *_stage(STEM, STEM, 1),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        self.stages = nn.ModuleList(
            nn.Sequential(*_stage(before, after, 2))
            for before, after in ((STEM, 2 * STEM), (2 * STEM, 4 * STEM), (4 * STEM, 4 * STEM))
        )
        self.projections = nn.ModuleList(
            nn.Conv2d(channels, width, 1) for channels in (2 * STEM, 4 * STEM, 4 * STEM)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[N, 3, H, W] -> the map at 1/4 [N, 64, H/4, W/4], and three rows of tokens [N, S, D]."""
        fine = found = self.stem(images)
        levels = []
        for stage, projection in zip(self.stages, self.projections, strict=True):
            found = stage(found)
            levels.append(projection(found).flatten(2).transpose(1, 2))
        return fine, levels


def whole_map_norm(channels: int) -> nn.GroupNorm:
    """A norm over all channels and places of a map."""
    return nn.GroupNorm(1, channels, eps=1e-6)


def as_map(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """[B, h * w, C] -> [B, C, h, w]."""
    return tokens.transpose(1, 2).unflatten(2, size)


def split_levels(tokens: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    """[B, S, C] -> the tokens of every level."""
    return torch.split(tokens, lengths, dim=1)


def _stage(before: int, after: int, stride: int) -> list[nn.Module]:
    convolution = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return [convolution, whole_map_norm(after), nn.ReLU()]
