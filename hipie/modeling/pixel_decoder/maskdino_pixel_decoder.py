"""Pixel decoder of stuff: deformable encoder and mask features at stride 4 (MaskDINO)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from torch import Tensor, nn

from hipie.modeling.pixel_decoder.multi_scale_features import (
    NORM_GROUPS,
    InputProjections,
    flatten_levels,
)
from hipie.modeling.transformer_decoder.layers import EncoderLayer, TransformerConfig
from hipie.modeling.transformer_decoder.position_encoding import sine_position_embedding
from hipie.structures import FeatureLevels

MASK_STRIDE = 4


class MaskDINOPixelDecoder(nn.Module):
    """MaskDINO's pixel decoder, by default without res2; as published it takes no padding mask.

    Mask features are the encoder's finest level, added to a lateral feature map and brought to
    stride 4. HIPIE's lateral map is the encoder's finest input, res3; MaskDINO's is res2, which its
    encoder does not read.

    Args:
        in_channels: channels of the encoder's feature maps, the finest first.
        transformer: sizes of the deformable encoder.
        finest_stride: stride of the finest of them, a power of two of at least 4.
        num_levels: levels of the encoder; None = one more than there are feature maps.
        lateral: channels and stride of a further, finer feature map for the mask features; None =
            the encoder's finest one.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        transformer: TransformerConfig,
        *,
        finest_stride: int = 8,
        num_levels: int | None = None,
        lateral: ShapeSpec | None = None,
    ) -> None:
        super().__init__()
        self.width = width = transformer.width
        self.projections = InputProjections(in_channels, width, num_levels)
        levels = len(self.projections.levels)
        self.has_lateral = lateral is not None
        lateral_channels, stride = in_channels[0], finest_stride
        if lateral is not None:
            lateral_channels, stride = lateral.channels, lateral.stride
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.encoder = nn.ModuleList(
            EncoderLayer(transformer, levels) for _ in range(transformer.encoder_layers)
        )
        self.lateral = nn.Sequential(
            nn.Conv2d(lateral_channels, width, 1, bias=False), nn.GroupNorm(NORM_GROUPS, width)
        )
        self.output = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(NORM_GROUPS, width)
        )
        doublings = (stride // MASK_STRIDE).bit_length() - 1
        self.mask_features = nn.Sequential(
            *(
                module
                for _ in range(doublings)
                for module in (
                    nn.ConvTranspose2d(width, width, 2, stride=2),
                    nn.GroupNorm(NORM_GROUPS, width),
                    nn.ReLU(),
                )
            ),
            nn.Conv2d(width, width, 1),
        )

    def forward(
        self, features: Sequence[Tensor], fuse: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[FeatureLevels, Tensor]:
        """Encode backbone features.

        Args:
            features: [B, C_i, h_i, w_i], the finest first; before them the lateral map if there is
                one.
            fuse: changes the tokens [B, S, width] before the encoder; None = they stay.

        Returns:
            Encoded levels, flattened from the coarsest to the finest, and mask features
            [B, width, H / 4, W / 4].
        """
        maps = self.projections(features[1:] if self.has_lateral else features)
        no_padding = [
            level.new_zeros((level.shape[0], *level.shape[2:]), dtype=torch.bool) for level in maps
        ]
        positions = [
            sine_position_embedding(mask, self.width) + embedding[:, None, None]
            for mask, embedding in zip(no_padding, self.level_embedding, strict=True)
        ]
        fine_first = flatten_levels(maps, positions, no_padding)
        reference_points = fine_first.reference_points()
        tokens = fine_first.tokens if fuse is None else fuse(fine_first.tokens)
        for layer in self.encoder:
            tokens = layer(tokens, fine_first, reference_points, None)
        encoded = fine_first.with_tokens(tokens).to_maps()
        lateral = self.lateral(features[0])
        upsampled = F.interpolate(encoded[0], size=lateral.shape[-2:], mode="bilinear")
        fused = self.output(lateral + upsampled).relu()
        coarse_first = flatten_levels(encoded[::-1], positions[::-1], no_padding[::-1])
        return coarse_first, self.mask_features(fused)
