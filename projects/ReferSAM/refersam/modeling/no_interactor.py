"""Ablation of the interactor: image encoder and text encoder without interaction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refersam.feature_capture import FeatureCapture
from refersam.modeling.interactor import InteractorOutput
from refersam.modeling.multi_scale_geometry import STRIDES
from refersam.modeling.sam import SamVariant, add_position_embedding
from refersam.modeling.spatial_prior import SpatialPrior

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT


class NoInteractor(nn.Module):
    """SAM's image encoder, the spatial prior, and the text unchanged.

    Replaces `Interactor` in an ablation: text and image are fused in the prompter only, or, without
    a spatial prior and a prompter, in SAM's mask decoder only.

    Args:
        variant: shape of the image encoder.
        strides: strides of the maps of the spatial prior; none: there is no spatial prior.
    """

    def __init__(self, variant: SamVariant, strides: Sequence[int] = STRIDES) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.spatial_prior = SpatialPrior(variant.width, strides) if strides else None

    def forward(
        self,
        encoder: ImageEncoderViT,
        images: Tensor,
        text: Tensor,
        text_mask: Tensor,
        image_of: Tensor | None = None,
        capture: FeatureCapture | None = None,
    ) -> InteractorOutput:
        """Encode images once each; arguments are those of `Interactor.forward`."""
        fine, levels = (None, []) if self.spatial_prior is None else self.spatial_prior(images)
        patches = add_position_embedding(encoder, encoder.patch_embed(images))
        for block in encoder.blocks:
            patches = block(patches)
        patches = patches.permute(0, 3, 1, 2)
        no_maps = patches.new_empty(len(patches), 0, patches.shape[1])
        maps = torch.cat(levels, dim=1) if levels else no_maps
        if image_of is not None:
            maps, patches = maps[image_of], patches[image_of]
        height, width = images.shape[-2:]
        sizes = {stride: (height // stride, width // stride) for stride in self.strides}
        return InteractorOutput(fine, maps, patches, text, sizes)
