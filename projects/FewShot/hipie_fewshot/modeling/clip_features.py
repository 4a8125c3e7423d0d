"""Dense image features of CLIP's vision transformer, in place of DINO's."""

from __future__ import annotations

import torch
from torch import Tensor

from hipie.errors import InputError
from hipie.modeling.open_vocabulary.clip import Clip


class ClipPatches:
    """Features of CLIP's patches after its last block and projection, as an encoder of prototypes.

    Args:
        clip: a ViT with a class token.
        size: side of the square input in pixels, a multiple of the patch size.

    Raises:
        InputError: for another size.
        OpenVocabularyError: if the image encoder is not a ViT with a class token.
    """

    def __init__(self, clip: Clip, size: int) -> None:
        clip.require_mask_pooling()
        height, width = clip.patch_size
        if size < 1 or size % height or size % width:
            raise InputError(
                f"MODEL.FEWSHOT.SIZE is {size}; it has to be a multiple of CLIP's patch of {height}"
            )
        self.clip = clip
        self.model = clip.model
        self.image_size = size

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.clip.patch_size[0]

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.clip.device

    def extract_features(self, images: Tensor) -> Tensor:
        """Compute patch features [B, g * g, D] of images [B, 3, S, S], RGB in 0..1."""
        size = (self.image_size, self.image_size)
        features = [self.clip.encode(image, size).patch_features.flatten(0, 1) for image in images]
        return torch.stack(features)
