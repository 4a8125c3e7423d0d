"""Vision-language interactor: SAM's image encoder conditioned on an expression."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refersam.feature_capture import FeatureCapture
from refersam.modeling.interaction_block import (
    InteractionBlock,
    InteractionGeometry,
    TextTokens,
    record_interaction,
)
from refersam.modeling.multi_scale_geometry import (
    MAP_NAMES,
    STRIDES,
    MultiScaleGeometry,
    level_positions,
)
from refersam.modeling.sam import PATCH_SIZE, SamVariant, add_position_embedding
from refersam.modeling.spatial_prior import SpatialPrior

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT


@dataclass(frozen=True)
class InteractorOutput:
    """Features of images and expressions after the interactions.

    Attributes:
        fine: [B, 64, H/4, W/4]; one row for each image if images are shared by expressions; None
            without a spatial prior.
        maps: [B, S, D], the concatenated maps; S is 0 without a spatial prior.
        patches: [B, D, H/16, W/16] of the ViT.
        text: [B, T, C].
        sizes: (height, width) of the maps by stride, in their order.
    """

    fine: Tensor | None
    maps: Tensor
    patches: Tensor
    text: Tensor
    sizes: dict[int, tuple[int, int]]


class Interactor(nn.Module):
    """Spatial prior, position embeddings, context tokens, and an interaction per block group.

    The image encoder is an argument of `forward`.

    Args:
        variant: shape of the image encoder.
        text_width: C, channels of a text token.
        context_tokens: number of learned tokens that are concatenated to the text.
        strides: strides of the feature maps.
        interactions: number of interaction blocks.
        extra_pairs: further pairs of extractor and fusion in the last interaction block.
        fuse_text: fuse text and maps; else the text is unchanged, and all features are computed
            once for each image.
    """

    def __init__(
        self,
        variant: SamVariant,
        text_width: int,
        context_tokens: int = 16,
        *,
        strides: Sequence[int] = STRIDES,
        interactions: int = 4,
        extra_pairs: int = 2,
        fuse_text: bool = True,
    ) -> None:
        super().__init__()
        self.groups = variant.split_blocks(interactions)
        self.strides = tuple(strides)
        self.fuses_text = fuse_text
        self.spatial_prior = SpatialPrior(variant.width, strides)
        embedding = nn.Parameter(torch.randn(len(strides), variant.width))
        # Positions are an input of the fusions only.
        self.register_parameter("level_embedding", embedding if fuse_text else None)
        self.context = nn.Embedding(context_tokens, text_width)
        last = len(self.groups) - 1
        self.interactions = nn.ModuleList(
            InteractionBlock(
                variant.width,
                text_width,
                variant.heads,
                pairs=1 + extra_pairs * (index == last),
                levels=len(strides),
                fuse_text=fuse_text,
            )
            for index in range(len(self.groups))
        )

    def forward(
        self,
        encoder: ImageEncoderViT,
        images: Tensor,
        text: Tensor,
        text_mask: Tensor,
        image_of: Tensor | None = None,
        capture: FeatureCapture | None = None,
    ) -> InteractorOutput:
        """Encode images with expressions.

        Args:
            encoder: SAM's image encoder.
            images: [N, 3, H, W], normalised.
            text: [B, T, C] features of tokens.
            text_mask: [B, T] bool, True for tokens that are not padding.
            image_of: [B] index of the image of every expression; None: expression b belongs to
                image b. Layers before the first fusion then run once for each image.
            capture: records features by name.
        """
        capture = capture or FeatureCapture()
        fine, levels = self.spatial_prior(images)
        capture.record("spm_c1", fine)
        for stride, level in zip(self.strides, levels, strict=True):
            capture.record(f"spm_{MAP_NAMES[stride]}", level)
        patches = encoder.patch_embed(images)
        capture.record("patch_embed", patches)
        height, width = images.shape[-2:]
        geometry = self._geometry(height, width, images.device)
        patches = add_position_embedding(encoder, patches).flatten(1, 2)
        maps = torch.cat(levels, dim=1)
        context = self.context.weight.expand(len(text), -1, -1)
        tokens = TextTokens(text, text_mask, context.to(text.dtype))
        for index, (interaction, group) in enumerate(
            zip(self.interactions, self.groups, strict=True)
        ):
            blocks = [encoder.blocks[i] for i in group]
            injected, patches, maps = interaction.encode_image(blocks, patches, maps, geometry)
            capture.record(f"injector{index}", injected)
            capture.record(f"extractor{index}", maps)
            if index == 0 and image_of is not None and self.fuses_text:
                patches, maps = patches[image_of], maps[image_of]
            maps, tokens = interaction.fuse_text(patches, maps, tokens, geometry)
            record_interaction(index, patches, maps, tokens, geometry, capture)
        if image_of is not None and not self.fuses_text:
            patches, maps = patches[image_of], maps[image_of]
        patch_grid = patches.transpose(1, 2).unflatten(2, geometry.patches.sizes[0])
        sizes = dict(zip(self.strides, geometry.maps.sizes, strict=True))
        return InteractorOutput(fine, maps, patch_grid, tokens.tokens, sizes)

    def _geometry(self, height: int, width: int, device: torch.device) -> InteractionGeometry:
        maps = MultiScaleGeometry.of_image(height, width, device, self.strides)
        patches = MultiScaleGeometry.from_sizes(
            ((height // PATCH_SIZE, width // PATCH_SIZE),), device
        )
        if self.level_embedding is None:
            positions = torch.empty(1, 0, 0, device=device)
        else:
            positions = level_positions(maps, self.level_embedding)
        return InteractionGeometry(maps, patches, positions)
