"""Prototype matching: the mean feature of the masked patches, compared with every query patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from hipie_fewshot.feature_cache import FeatureCache
from hipie_fewshot.modeling.clip_features import ClipPatches
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.method import FewShotMethod, MaskPrediction
from hipie_fewshot.modeling.patch_features import (
    normalized_features,
    resize_to_square,
    support_features,
    upsample_patch_values,
)
from hipie_fewshot.support_set import Example

FOREGROUND_FRACTION = 0.5


class PrototypeQuery(NamedTuple):
    """Encoded query image.

    Attributes:
        patches: [g * g, C] unit-length features.
        size: (height, width) of the image.
    """

    patches: Tensor
    size: tuple[int, int]


class Prototype(FewShotMethod[PrototypeQuery]):
    """Nearest prototype by cosine similarity of the patch features of DINO or CLIP.

    Args:
        dino: feature extractor, of either.
        background: assign a patch to the object if it is more similar to the object's prototype
            than to the background's; otherwise if its similarity is above the midpoint of the
            lowest and the highest similarity in the image.
    """

    def __init__(self, dino: Dino | ClipPatches, background: bool = True) -> None:
        self.dino = dino
        self.background = background
        self.prototypes = FeatureCache(
            lambda examples: compute_prototypes(*support_features(dino, examples))
        )

    def encode(self, image: NDArray[np.uint8]) -> PrototypeQuery:
        """Compute the patch features of a query image [H, W, 3]."""
        square = resize_to_square(image, self.dino.image_size)
        patches = normalized_features(self.dino, [square])[0]
        return PrototypeQuery(patches, (image.shape[0], image.shape[1]))

    def predict_encoded(self, query: PrototypeQuery, examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object by its prototype.

        Raises:
            ExampleError: if there are no examples.
        """
        foreground, background = self.prototypes(examples, self.dino.device)
        patches, size = query
        similarity = patches @ foreground
        if self.background and background is not None:
            margin = similarity - patches @ background
        else:
            margin = similarity - (similarity.max() + similarity.min()) / 2
        mask = upsample_patch_values(margin, size) > 0
        inside = upsample_patch_values(similarity, size)[mask]
        score = float(inside.mean().clamp(0, 1)) if len(inside) else 0.0
        return MaskPrediction(mask, score)


def compute_prototypes(patches: Tensor, fractions: Tensor) -> tuple[Tensor, Tensor | None]:
    """Compute the mean directions of foreground and background patches.

    Args:
        patches: [N, C] of unit length.
        fractions: [N] masked fraction of each patch. Patches above one half are foreground; if
            there are none, those with the largest fraction are.

    Returns:
        Foreground [C] and background [C] of unit length; None if all patches are foreground.
    """
    foreground = fractions > FOREGROUND_FRACTION
    if not foreground.any():
        foreground = fractions == fractions.max()
    background = None
    if not foreground.all():
        background = F.normalize(patches[~foreground].mean(0), dim=0)
    return F.normalize(patches[foreground].mean(0), dim=0), background
