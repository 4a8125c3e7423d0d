"""Ablation of the interactor: image encoder and text encoder without interaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refersam.feature_capture import FeatureCapture
from refersam.modeling.interactor import InteractorOutput
from refersam.modeling.multi_scale_geometry import MultiScaleGeometry
from refersam.modeling.sam import SamVariant, add_position_embedding
from refersam.modeling.spatial_prior import SpatialPrior

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT


class NoInteractor(nn.Module):
    """SAM's image encoder, the spatial prior, and the text unchanged.

    Replaces `Interactor` in an ablation: text and image are fused in the prompter only.

    Args:
        variant: shape of the image encoder.
    """

    def __init__(self, variant: SamVariant) -> None:
        super().__init__()
        self.spatial_prior = SpatialPrior(variant.width)

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
        fine, levels = self.spatial_prior(images)
        patches = add_position_embedding(encoder, encoder.patch_embed(images))
        for block in encoder.blocks:
            patches = block(patches)
        maps, patches = torch.cat(levels, dim=1), patches.permute(0, 3, 1, 2)
        if image_of is not None:
            maps, patches = maps[image_of], patches[image_of]
        geometry = MultiScaleGeometry.of_image(*images.shape[-2:], images.device)
        return InteractorOutput(fine, maps, patches, text, geometry.sizes)
