"""The stuff decoder's own pyramid: a deformable encoder and mask features at stride 4."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.pixel_decoder.input_projection import NORM_GROUPS, InputProjections
from hipie.modeling.pixel_decoder.multi_scale_features import Levels, flatten_levels
from hipie.modeling.transformer_decoder.layers import EncoderLayer
from hipie.modeling.transformer_decoder.position_encoding import sine_positions


@dataclass
class StuffPyramid:
    """What the pixel decoder makes of a batch.

    Attributes:
        levels: encoded tokens, flattened from stride 64 down to stride 8.
        maps: the same as maps [B, C, h, w], stride 8 first.
        mask_features: [B, C, H/4, W/4].
    """

    levels: Levels
    maps: list[Tensor]
    mask_features: Tensor


class StuffPixelDecoder(nn.Module):
    """MaskDINO's pixel decoder without res2; it never sees a padding mask.

    Args:
        in_channels: channels of res3, res4, res5.
        width: channels everywhere inside.
        num_layers, num_heads, num_points, ffn_width: of the deformable encoder.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        width: int,
        num_layers: int,
        num_heads: int,
        num_points: int,
        ffn_width: int,
    ) -> None:
        super().__init__()
        levels = len(in_channels) + 1
        self.width = width
        self.projections = InputProjections(in_channels, width)
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.encoder = nn.ModuleList(
            EncoderLayer(width, num_heads, levels, num_points, ffn_width) for _ in range(num_layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(in_channels[0], width, 1, bias=False), nn.GroupNorm(NORM_GROUPS, width)
        )
        self.output = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(NORM_GROUPS, width)
        )
        self.mask_features = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.GroupNorm(NORM_GROUPS, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, features: Sequence[Tensor]) -> StuffPyramid:
        """[B, C_i, h_i, w_i] of strides 8, 16, 32 -> the pyramid."""
        maps = self.projections(features)
        nothing = [one.new_zeros((one.shape[0], *one.shape[2:]), dtype=torch.bool) for one in maps]
        positions = [
            sine_positions(mask, self.width) + embedding[:, None, None]
            for mask, embedding in zip(nothing, self.level_embedding, strict=True)
        ]
        fine_first = flatten_levels(maps, positions, nothing)
        centres = fine_first.centres()
        tokens = fine_first.tokens
        for layer in self.encoder:
            tokens = layer(tokens, fine_first, centres, None)
        encoded = fine_first.as_maps(tokens)
        lateral = self.lateral(features[0])
        up = F.interpolate(encoded[0], size=lateral.shape[-2:], mode="bilinear")
        fused = self.output(lateral + up).relu()
        coarse_first = flatten_levels(encoded[::-1], positions[::-1], nothing[::-1])
        return StuffPyramid(coarse_first, encoded, self.mask_features(fused))
