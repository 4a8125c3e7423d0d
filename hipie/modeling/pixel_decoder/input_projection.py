"""Backbone features brought to one width, with a fourth, coarser level."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

NORM_GROUPS = 32


class InputProjections(nn.Module):
    """A 1x1 convolution and a group norm a level; stride 64 is made from the raw last level.

    Args:
        in_channels: channels of res3, res4, res5.
        width: channels of the results, divisible by 32.
    """

    def __init__(self, in_channels: Sequence[int], width: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(NORM_GROUPS, width))
            for channels in in_channels
        )
        self.levels.append(
            nn.Sequential(
                nn.Conv2d(in_channels[-1], width, 3, stride=2, padding=1),
                nn.GroupNorm(NORM_GROUPS, width),
            )
        )
        for convolution, _ in self.levels:
            nn.init.xavier_uniform_(convolution.weight)
            nn.init.zeros_(convolution.bias)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """[B, C_i, h_i, w_i] of strides 8, 16, 32 -> [B, width, ...] of strides 8, 16, 32, 64."""
        inputs = [*features, features[-1]]
        return [level(x) for level, x in zip(self.levels, inputs, strict=True)]
