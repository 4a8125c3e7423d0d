"""What is left without the interactor: an image and an expression that have not met yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refersam.feature_capture import Activations
from refersam.modeling.interactor import Seen
from refersam.modeling.multi_scale_geometry import pyramid
from refersam.modeling.sam import SamVariant, add_positions
from refersam.modeling.spatial_prior import SpatialPrior

if TYPE_CHECKING:
    from segment_anything.modeling import ImageEncoderViT


class Apart(nn.Module):
    """SAM's encoder as it is, the spatial prior beside it, and words as they were read.

    It takes the place of `Interactor` in an ablation: words meet the image in the prompter only.

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
        words: Tensor,
        word_mask: Tensor,
        image_of: Tensor | None = None,
        kept: Activations | None = None,
    ) -> Seen:
        """As `Interactor.forward`; everything is computed once an image."""
        fine, levels = self.spatial_prior(images)
        patches = add_positions(encoder, encoder.patch_embed(images))
        for block in encoder.blocks:
            patches = block(patches)
        maps, patches = torch.cat(levels, dim=1), patches.permute(0, 3, 1, 2)
        if image_of is not None:
            maps, patches = maps[image_of], patches[image_of]
        return Seen(fine, maps, patches, words, pyramid(*images.shape[-2:], images.device).sizes)
