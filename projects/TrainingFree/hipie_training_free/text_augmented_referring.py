"""TAS: referring segmentation among mask proposals with captions, negative texts and positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from hipie_training_free.error import TrainingFreeError
from hipie_training_free.global_local_referring import GlobalLocalCLIP
from hipie_training_free.modeling.captioning import Captioner, load_captioner
from hipie_training_free.modeling.text_augmented_scores import (
    crop_features,
    directions,
    in_direction,
    largest_masks,
    negative_phrases,
    square_box,
    text_augmented_scores,
)

# Side of the Gaussian that blurs what is outside a captioned mask, as in the released program.
BLUR = 75
NEGATIVE_TEMPLATE = "a photo of {}"


@dataclass(frozen=True)
class TASConfig:
    """Keys of `MODEL.TRAINING_FREE.TAS`.

    Attributes:
        caption, negative: weights of the captions and of the negative phrases.
        min_area, max_overlap: see `largest_masks`.
        spatial: prefer masks in the expression's direction.
    """

    caption: float = 0.1
    negative: float = 0.7
    min_area: int = 2000
    max_overlap: float = 0.4
    spatial: bool = True

    def __post_init__(self) -> None:
        """Check the weights.

        Raises:
            TrainingFreeError: for a negative one.
        """
        for name, value in (("CAPTION", self.caption), ("NEGATIVE", self.negative)):
            if value < 0:
                raise TrainingFreeError(
                    f"MODEL.TRAINING_FREE.TAS.{name} is {value}; it has to be 0 or larger"
                )


@META_ARCH_REGISTRY.register()
class TAS(GlobalLocalCLIP):
    """Selection of mask proposals by image, caption and negative texts (Suo et al., 2023).

    Inputs and outputs are those of `GlobalLocalCLIP`. Without a captioner, captions and negative
    phrases do not count.

    Args:
        tas: weights and filters.
        captioner: describes images; None: none are described.
        options: of `GlobalLocalCLIP`.
    """

    @configurable
    def __init__(
        self, *, tas: TASConfig | None = None, captioner: Captioner | None = None, **options: Any
    ) -> None:
        super().__init__(**options)
        self.tas, self.captioner = tas or TASConfig(), captioner

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Build the constructor arguments from `MODEL.TRAINING_FREE`."""
        keys = cfg.MODEL.TRAINING_FREE.TAS
        return {
            **super().from_config(cfg),
            "tas": TASConfig(
                keys.CAPTION, keys.NEGATIVE, keys.MIN_AREA, keys.MAX_OVERLAP, keys.SPATIAL
            ),
            "captioner": load_captioner(keys.CAPTIONER) if keys.CAPTIONER else None,
        }

    def propose_masks(self, image: Tensor) -> Tensor:
        """Propose masks and leave out small and overlapping ones."""
        masks = super().propose_masks(image)
        return masks[largest_masks(masks, self.tas.min_area, self.tas.max_overlap)]

    @torch.no_grad()
    def score_masks(self, image: Tensor, masks: Tensor, expressions: Sequence[str]) -> Tensor:
        """Compute scores in -1..1; see `GlobalLocalCLIP.score_masks`.

        Masks that are not in the direction of an expression have -inf.
        """
        visual = crop_features(self.clip, image, masks)
        text = self.clip.text_features([e.lower() for e in expressions], "none")
        captions, negatives = None, [visual[:0] for _ in expressions]
        if self.captioner is not None:
            crops = [square_box(_blurred_outside(image, mask), mask) for mask in masks]
            *of_masks, whole = self.captioner([*crops, image])
            # A model may describe an image by nothing, which CLIP cannot encode.
            captions = self.clip.text_features([text or "image" for text in of_masks], "none")
            negatives = [self._phrase_features(whole, e, visual) for e in expressions]
        weights = (self.tas.caption, self.tas.negative)
        scores = text_augmented_scores(visual, text, captions, negatives, weights)
        scores = scores / (1 + sum(weights))
        if self.tas.spatial:
            for row, expression in enumerate(expressions):
                scores[row, ~in_direction(masks, directions(expression))] = -torch.inf
        return scores

    def _phrase_features(self, caption: str, expression: str, visual: Tensor) -> Tensor:
        """Features [M, D] of the negative phrases of an expression."""
        phrases = negative_phrases(caption, expression)
        if not phrases:
            return visual[:0]
        return self.clip.text_features(phrases, (NEGATIVE_TEMPLATE,))


def _blurred_outside(image: Tensor, mask: Tensor) -> Tensor:
    """Image [3, H, W] that is blurred outside a mask."""
    largest = 2 * min(image.shape[-2:]) - 1
    return torch.where(mask, image, gaussian_blur(image, [min(BLUR, largest)] * 2))
