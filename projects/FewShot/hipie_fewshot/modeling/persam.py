"""PerSAM: SAM prompted and guided by the features of the support object, without training.

Zhang et al., "Personalize Segment Anything Model with One Shot", ICLR 2024, sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from hipie.box_ops import masks_to_boxes
from hipie.modeling.sam.predictor import Sam, SamImage, SamMasks
from hipie_fewshot.feature_cache import FeatureCache
from hipie_fewshot.modeling.location_prior import (
    LocationPrior,
    location_prior,
    target_embedding,
)
from hipie_fewshot.modeling.method import FewShotMethod, MaskPrediction
from hipie_fewshot.modeling.prompted_decoder import decode_guided_masks
from hipie_fewshot.support_set import Example

POSITIVE, NEGATIVE = 1, 0


class PerSam(FewShotMethod[SamImage]):
    """Training-free personalisation of SAM.

    Args:
        sam: the model.
        stretched_guidance: see `location_prior`.
    """

    def __init__(self, sam: Sam, stretched_guidance: bool = True) -> None:
        sam.require_padded("PerSAM")
        self.sam = sam
        self.stretched_guidance = stretched_guidance
        self.target = FeatureCache(partial(target_embedding, sam))

    def encode(self, image: NDArray[np.uint8]) -> SamImage:
        """Compute SAM's features of a query image [H, W, 3]."""
        return self.sam.encode(image)

    def predict_encoded(self, query: SamImage, examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object in an encoded query image.

        Three rounds of SAM: the most similar point as positive and the least similar as negative
        prompt, with guidance; the same points with the resulting mask; and with its box as well.

        Raises:
            ExampleError: if there are no examples.
        """
        target = self.target(examples, self.sam.device)
        prior = location_prior(query, target, self.stretched_guidance)
        logits = guided_mask_logits(query, prior, target)
        masks = refine_mask(query, prior.points, logits)
        box = mask_to_box(masks.masks[0, 0])
        if box is not None:
            masks = refine_mask(query, prior.points, masks.low_resolution[:, 0], box)
        return MaskPrediction(masks.masks[0, 0], float(masks.scores[0, 0].clamp(0, 1)))


@torch.no_grad()
def guided_mask_logits(image: SamImage, prior: LocationPrior, target: Tensor) -> Tensor:
    """Compute the logits [1, 4g, 4g] of the guided decoder's single mask."""
    model = image.sam.model
    transform = ResizeLongestSide(image.sam.image_size)
    points = torch.from_numpy(prior.points.astype(np.float32))[None].to(image.sam.device)
    labels = torch.tensor([[POSITIVE, NEGATIVE]], device=points.device)
    sparse, dense = model.prompt_encoder(
        points=(transform.apply_coords_torch(points, image.size), labels), boxes=None, masks=None
    )
    masks, _ = decode_guided_masks(
        model.mask_decoder,
        image.features,
        model.prompt_encoder.get_dense_pe(),
        sparse,
        dense,
        guidance=prior.guidance,
        target=target,
    )
    return masks[:, 0]


def refine_mask(
    image: SamImage, points: np.ndarray, logits: Tensor, box: np.ndarray | None = None
) -> SamMasks:
    """Predict the best of SAM's three masks from points, previous logits and perhaps a box.

    Args:
        image: encoded.
        points: [P, 2] x and y; the first is a positive prompt, the second, if any, a negative one.
        logits: [1, h, w] of the previous round.
        box: [4] x1, y1, x2, y2.
    """
    return image.predict(
        points=points[None],
        labels=np.array([[POSITIVE, NEGATIVE][: len(points)]]),
        boxes=None if box is None else box[None],
        masks=logits,
        multimask=True,
    ).best()


def mask_to_box(mask: Tensor) -> np.ndarray | None:
    """Compute the box of a mask [H, W] as the published program does.

    Returns:
        [4] x1, y1, x2, y2 of the outermost pixels, x2 > x1 and y2 > y1; None for an empty mask.
    """
    if not mask.any():
        return None
    x1, y1, x2, y2 = masks_to_boxes(mask[None])[0].tolist()
    # The published program includes the last row and column.
    return np.array([x1, y1, max(x2 - 1, x1 + 1), max(y2 - 1, y1 + 1)], float)
