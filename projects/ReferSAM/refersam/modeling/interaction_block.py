"""Interaction block: feature exchange between ViT blocks, feature maps and text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hipie.ops import MSDeformAttn
from refersam.feature_capture import FeatureCapture
from refersam.modeling.attention import layer_norm
from refersam.modeling.multi_scale_geometry import MultiScaleGeometry
from refersam.modeling.vision_language_fusion import VisionLanguageFusion

NUM_POINTS, VALUE_RATIO = 4, 0.5
INITIAL_GAMMA = 1e-6


class InteractionGeometry(NamedTuple):
    """Geometry of feature maps and ViT patches.

    Attributes:
        maps: the feature maps.
        patches: the grid of the ViT.
        positions: [1, S, D] position embeddings of the maps' tokens.
    """

    maps: MultiScaleGeometry
    patches: MultiScaleGeometry
    positions: Tensor


class TextTokens(NamedTuple):
    """Text tokens [B, T, C], their mask [B, T] bool, and context tokens [B, N, C]."""

    tokens: Tensor
    mask: Tensor
    context: Tensor


class Injector(nn.Module):
    """Deformable attention of the ViT's patches to the feature maps.

    Only the queries are normalised.

    Args:
        width: D.
        heads: number of heads of the deformable attention.
        levels: number of feature maps.
    """

    def __init__(self, width: int, heads: int, levels: int = 3) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.attention = MSDeformAttn(width, levels, heads, NUM_POINTS, VALUE_RATIO)
        self.gamma = nn.Parameter(torch.full((width,), INITIAL_GAMMA))

    def forward(self, patches: Tensor, maps: Tensor, geometry: InteractionGeometry) -> Tensor:
        """Patches [B, h * w, D] and maps [B, S, D] -> patches."""
        sampled = _deformable_attention(
            self.attention, self.norm(patches), maps, geometry.patches, geometry.maps
        )
        return patches + self.gamma * sampled


class Extractor(nn.Module):
    """Deformable attention of the feature maps to the ViT's patches, with post-norm.

    Args:
        width: D.
        heads: number of heads of the deformable attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.value_norm = layer_norm(width)
        self.attention = MSDeformAttn(width, 1, heads, NUM_POINTS, VALUE_RATIO)
        self.norm = layer_norm(width)

    def forward(self, maps: Tensor, patches: Tensor, geometry: InteractionGeometry) -> Tensor:
        """Maps [B, S, D] and patches [B, h * w, D] -> maps."""
        sampled = _deformable_attention(
            self.attention, maps, self.value_norm(patches), geometry.maps, geometry.patches
        )
        return self.norm(maps + sampled)


class ExtractorFusionPair(nn.Module):
    """An extractor and the vision-language fusion that follows it, None without text."""

    def __init__(
        self, width: int, text_width: int, heads: int, levels: int = 3, fuse_text: bool = True
    ) -> None:
        super().__init__()
        self.extractor = Extractor(width, heads)
        self.exchange = (
            VisionLanguageFusion(width, text_width, heads, levels) if fuse_text else None
        )


class InteractionBlock(nn.Module):
    """Injector, a group of ViT blocks, and pairs of extractor and vision-language fusion.

    Args:
        width: D.
        text_width: C, channels of a text token.
        heads: number of heads of all attentions.
        pairs: number of pairs; the last interaction has more than one.
        levels: number of feature maps.
        fuse_text: the pairs have a fusion.
    """

    def __init__(
        self,
        width: int,
        text_width: int,
        heads: int,
        pairs: int = 1,
        levels: int = 3,
        fuse_text: bool = True,
    ) -> None:
        super().__init__()
        self.injector = Injector(width, heads, levels)
        self.pairs = nn.ModuleList(
            ExtractorFusionPair(width, text_width, heads, levels, fuse_text) for _ in range(pairs)
        )

    def encode_image(
        self,
        blocks: Iterable[nn.Module],
        patches: Tensor,
        maps: Tensor,
        geometry: InteractionGeometry,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Run the part without text: injector, ViT blocks and the first extractor.

        Args:
            blocks: ViT blocks, on [B, h, w, D].
            patches: [B, h * w, D].
            maps: [B, S, D].
            geometry: of patches and maps.

        Returns:
            Patches after the injector, patches after the blocks, and maps.
        """
        injected = self.injector(patches, maps, geometry)
        patches = injected.unflatten(1, geometry.patches.sizes[0])
        for block in blocks:
            patches = block(patches)
        patches = patches.flatten(1, 2)
        return injected, patches, self.pairs[0].extractor(maps, patches, geometry)

    def fuse_text(
        self, patches: Tensor, maps: Tensor, text: TextTokens, geometry: InteractionGeometry
    ) -> tuple[Tensor, TextTokens]:
        """Run the fusion of the first pair and all further pairs -> maps and text."""
        for index, pair in enumerate(self.pairs):
            if index:
                maps = pair.extractor(maps, patches, geometry)
            if pair.exchange is None:
                continue
            tokens = torch.cat([text.tokens, text.context], dim=1)
            mask = torch.cat([text.mask, text.mask.new_ones(text.context.shape[:2])], dim=1)
            maps, tokens = pair.exchange(
                maps, geometry.positions, geometry.maps.lengths, tokens, mask
            )
            lengths = [text.tokens.shape[1], text.context.shape[1]]
            text_tokens, context = tokens.split(lengths, dim=1)
            text = TextTokens(text_tokens, text.mask, context)
        return maps, text


def record_interaction(
    index: int,
    patches: Tensor,
    maps: Tensor,
    text: TextTokens,
    geometry: InteractionGeometry,
    capture: FeatureCapture,
) -> None:
    """Record the outputs of an interaction block."""
    capture.record(f"block{index}_vit", patches.unflatten(1, geometry.patches.sizes[0]))
    capture.record(f"block{index}_adapter", maps)
    capture.record(f"block{index}_lang", text.tokens)
    capture.record(f"block{index}_context", text.context)


def _deformable_attention(
    attention: MSDeformAttn,
    queries: Tensor,
    values: Tensor,
    query_geometry: MultiScaleGeometry,
    value_geometry: MultiScaleGeometry,
) -> Tensor:
    """Deformable attention around the queries' own centres, in float32 also under autocast."""
    reference_points = query_geometry.reference_points.expand(
        len(queries), -1, len(value_geometry.sizes), -1
    )
    with torch.autocast(queries.device.type, enabled=False):
        return attention(
            queries.float(),
            reference_points,
            values.float(),
            value_geometry.spatial_shapes,
            value_geometry.level_start_index,
        )
