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
        self.fusion: BidirectionalFusion | None = None
        self.fusion_layers = () if fusion is None else tuple(fusion.layers)
        if fusion is not None:
            first, *further = (
                build_fusion(fusion, width, text_width, transformer.encoder_layers)
                for _ in fusion.layers
            )
            self.fusion = first
            if further:
                self.further_fusions = nn.ModuleList(further)
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

        Where the last fusion is before a later encoder layer than the first, the layers up to it
        are applied as well; `encode` goes on with the rest.

        Args:
            levels: of B images, of `project`.
            text: [B, T, text_width].
            text_mask: [B, T] bool, True for real tokens.

        Returns:
            The levels with fused tokens, and the fused text [B, T, text_width].
        """
        if self.fusion is None:
            return levels, text
        tokens, start = levels.tokens, 0
        for layer, fusion in zip(self.fusion_layers, self.fusions(), strict=True):
            tokens = self._apply_layers(levels.with_tokens(tokens), slice(start, layer))
            tokens, text = apply_fusion(fusion, tokens, text, text_mask)
            start = layer
        return levels.with_tokens(tokens), text

    def fusions(self) -> list[BidirectionalFusion]:
        """Fusions in the order of the layers."""
        if self.fusion is None:
            return []
        return [self.fusion, *getattr(self, "further_fusions", ())]

    def encode(self, levels: FeatureLevels) -> Tensor:
        """Encoder memory [B, S, width] of fused levels: the layers after the last fusion."""
        return self._apply_layers(levels, slice(max(self.fusion_layers, default=0), None))

    def _apply_layers(self, levels: FeatureLevels, layers: slice) -> Tensor:
        """Tokens [B, S, width] after some of the encoder's layers."""
        tokens = levels.tokens
        chosen = list(self.encoder)[layers]
        if not chosen:
            return tokens
        reference_points = levels.reference_points()
        for layer in chosen:
            tokens = layer(tokens, levels, reference_points, levels.padding_mask)
        return tokens


def build_fusion(
    fusion: FusionConfig, width: int, text_width: int, encoder_layers: int
) -> BidirectionalFusion:
    """Build one bi-directional attention; its residual scales start at 1 / `encoder_layers`."""
    return BidirectionalFusion(
        width,
        text_width,
        fusion.width,
        fusion.num_heads,
        initial_gamma=1 / max(encoder_layers, 1),
        dropout=fusion.dropout,
    )


def apply_fusion(
    fusion: BidirectionalFusion, tokens: Tensor, text: Tensor, text_mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Fuse image tokens [B, S, width] and text [B, T, text_width], in chunks where it saves memory.

    Args:
        fusion: the attention.
        tokens: of the image.
        text: of the captions.
        text_mask: [B, T] bool, True for real tokens.
    """
    in_chunks = not (torch.is_grad_enabled() or torch.compiler.is_exporting())
    if in_chunks and needs_chunks(tokens, text):
        return fuse_in_chunks(fusion, tokens, text, text_mask)
    fused: tuple[Tensor, Tensor] = fusion(tokens, text, text_mask)
    return fused
