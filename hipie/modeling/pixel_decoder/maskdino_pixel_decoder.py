"""Pixel decoder of stuff: deformable encoder and mask features at stride 4 (MaskDINO)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hipie.modeling.pixel_decoder.multi_scale_features import (
    NORM_GROUPS,
    InputProjections,
    flatten_levels,
)
from hipie.modeling.transformer_decoder.layers import EncoderLayer, TransformerConfig
from hipie.modeling.transformer_decoder.position_encoding import sine_position_embedding
from hipie.structures import FeatureLevels


class MaskDINOPixelDecoder(nn.Module):
    """MaskDINO's pixel decoder without res2; as published it takes no padding mask.

    Args:
        in_channels: channels of res3, res4, res5.
        transformer: sizes of the deformable encoder.
    """

    def __init__(self, in_channels: Sequence[int], transformer: TransformerConfig) -> None:
        super().__init__()
        levels = len(in_channels) + 1
        self.width = width = transformer.width
        self.projections = InputProjections(in_channels, width)
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.encoder = nn.ModuleList(
            EncoderLayer(transformer, levels) for _ in range(transformer.encoder_layers)
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

    def forward(self, features: Sequence[Tensor]) -> tuple[FeatureLevels, Tensor]:
        """Encode backbone features.

        Args:
            features: res3, res4, res5: [B, C_i, h_i, w_i] of strides 8, 16, 32.

        Returns:
            Encoded levels, flattened from stride 64 down to stride 8, and mask features
            [B, width, H / 4, W / 4].
        """
        maps = self.projections(features)
        no_padding = [
            level.new_zeros((level.shape[0], *level.shape[2:]), dtype=torch.bool) for level in maps
        ]
        positions = [
            sine_position_embedding(mask, self.width) + embedding[:, None, None]
            for mask, embedding in zip(no_padding, self.level_embedding, strict=True)
        ]
        fine_first = flatten_levels(maps, positions, no_padding)
        reference_points = fine_first.reference_points()
        tokens = fine_first.tokens
        for layer in self.encoder:
            tokens = layer(tokens, fine_first, reference_points, None)
        encoded = fine_first.with_tokens(tokens).to_maps()
        lateral = self.lateral(features[0])
        upsampled = F.interpolate(encoded[0], size=lateral.shape[-2:], mode="bilinear")
        fused = self.output(lateral + upsampled).relu()
        coarse_first = flatten_levels(encoded[::-1], positions[::-1], no_padding[::-1])
        return coarse_first, self.mask_features(fused)
