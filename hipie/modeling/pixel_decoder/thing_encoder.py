"""Encoder of things: input projection, early fusion with text, deformable encoder layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hipie.modeling.fusion.bidirectional_attention import BidirectionalFusion, FusionConfig
from hipie.modeling.fusion.chunked import fuse_in_chunks, needs_chunks
from hipie.modeling.pixel_decoder.multi_scale_features import (
    InputProjections,
    flatten_levels,
    resize_padding_mask,
)
from hipie.modeling.transformer_decoder.layers import EncoderLayer, TransformerConfig
from hipie.modeling.transformer_decoder.position_encoding import sine_position_embedding
from hipie.structures import FeatureLevels

POSITION_OFFSET = -0.5


class ThingEncoder(nn.Module):
    """Deformable encoder over image features that are fused with text first (early fusion).

    Args:
        in_channels: channels of the backbone's feature maps, the finest first.
        text_width: channels of a token.
        transformer: sizes of the transformer.
        fusion: sizes of the bi-directional attention; None = no early fusion.
        num_levels: levels of the encoder; None = one more than there are feature maps.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        text_width: int,
        transformer: TransformerConfig,
        fusion: FusionConfig | None,
        num_levels: int | None = None,
    ) -> None:
        super().__init__()
        self.width = width = transformer.width
        self.projections = InputProjections(in_channels, width, num_levels)
        levels = len(self.projections.levels)
        self.level_embedding = nn.Parameter(torch.randn(levels, width))
        self.fusion = None
        if fusion is not None:
            self.fusion = BidirectionalFusion(
                width,
                text_width,
                fusion.width,
                fusion.num_heads,
                initial_gamma=1 / max(transformer.encoder_layers, 1),
                dropout=fusion.dropout,
            )
        self.encoder = nn.ModuleList(
            EncoderLayer(transformer, levels) for _ in range(transformer.encoder_layers)
        )

    def project(self, features: Sequence[Tensor], padding_mask: Tensor) -> FeatureLevels:
        """Project and flatten the backbone features of B images; independent of text.

        Args:
            features: [B, C_i, h_i, w_i], the finest first.
            padding_mask: [B, H, W] bool of the canvas, True where padded.
        """
        maps = self.projections(features)
        masks = [resize_padding_mask(padding_mask, x.shape[-2:]) for x in maps[: len(features)]]
        # As published, those of the further levels come from the finest level's.
        masks += [resize_padding_mask(masks[0], x.shape[-2:]) for x in maps[len(features) :]]
        positions = [
            sine_position_embedding(mask, self.width, POSITION_OFFSET) + embedding[:, None, None]
            for mask, embedding in zip(masks, self.level_embedding, strict=True)
        ]
        return flatten_levels(maps, positions, masks)

    def fuse(
        self, levels: FeatureLevels, text: Tensor, text_mask: Tensor
    ) -> tuple[FeatureLevels, Tensor]:
        """Fuse image and text features by bi-directional attention; unchanged without fusion.

        Args:
            levels: of B images, of `project`.
            text: [B, T, text_width].
            text_mask: [B, T] bool, True for real tokens.

        Returns:
            The levels with fused tokens, and the fused text [B, T, text_width].
        """
        if self.fusion is None:
            return levels, text
        in_chunks = not (torch.is_grad_enabled() or torch.compiler.is_exporting())
        if in_chunks and needs_chunks(levels.tokens, text):
            tokens, fused_text = fuse_in_chunks(self.fusion, levels.tokens, text, text_mask)
        else:
            tokens, fused_text = self.fusion(levels.tokens, text, text_mask)
        return levels.with_tokens(tokens), fused_text

    def encode(self, levels: FeatureLevels) -> Tensor:
        """Encoder memory [B, S, width] of fused levels."""
        reference_points = levels.reference_points()
        tokens = levels.tokens
        for layer in self.encoder:
            tokens = layer(tokens, levels, reference_points, levels.padding_mask)
        return tokens
