"""The plainest way: the mean feature of the examples' masks, compared with every patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from hipie_fewshot.feature_cache import Remembered
from hipie_fewshot.modeling.dino import Dino
from hipie_fewshot.modeling.patch_grid import example_features, features, squashed
from hipie_fewshot.support_set import Example

HALF = 0.5


@dataclass(frozen=True)
class Found:
    """What examples were matched with.

    Attributes:
        mask: [H, W] bool.
        score: 0..1, how sure the method is.
    """

    mask: np.ndarray
    score: float


class Prototype:
    """Cosine similarity to prototypes.

    Args:
        dino: makes the features.
        background: a patch belongs to the object if it is more like its prototype than like that
            of the examples' rest; else, if it is more like it than the middle between the least and
            the most similar patch.
    """

    def __init__(self, dino: Dino, background: bool = True) -> None:
        self.dino = dino
        self.background = background
        self.prototypes = Remembered(lambda shown: prototypes(*example_features(dino, shown)))

    def find(self, image: np.ndarray, examples: Sequence[Example]) -> Found:
        """The examples' object in an image [H, W, 3].

        Raises:
            ExampleError: without examples.
        """
        inside, outside = self.prototypes(examples, self.dino.device)
        patches = features(self.dino, [squashed(image, self.dino.size)])[0]
        similarity = patches @ inside
        if self.background and outside is not None:
            excess = similarity - patches @ outside
        else:
            excess = similarity - (similarity.max() + similarity.min()) / 2
        full = enlarged(excess, image.shape[:2])
        mask = full > 0
        certain = enlarged(similarity, image.shape[:2])[mask]
        score = float(certain.mean().clamp(0, 1)) if len(certain) else 0.0
        return Found(mask.cpu().numpy(), score)


def prototypes(patches: Tensor, shares: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean directions of the object and of the rest.

    Args:
        patches: [N, C] of unit length.
        shares: [N] how much of each is the object. More than half makes it the object's; if no
            patch has so much, those with the most are.

    Returns:
        [C] and [C], of unit length; None where all is the object.
    """
    inside = shares > HALF
    if not inside.any():
        inside = shares == shares.max()
    rest = F.normalize(patches[~inside].mean(0), dim=0) if not inside.all() else None
    return F.normalize(patches[inside].mean(0), dim=0), rest


def enlarged(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Values of patches [g * g] at the image's size [H, W], bilinearly."""
    side = round(values.numel() ** 0.5)
    grid = values.reshape(1, 1, side, side)
    return F.interpolate(grid, size, mode="bilinear", align_corners=False)[0, 0]
