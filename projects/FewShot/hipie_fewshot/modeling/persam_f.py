"""PerSAM-F: PerSAM with a fitted weighting of SAM's three mask scales.

Zhang et al., "Personalize Segment Anything Model with One Shot", ICLR 2024, section 3.3. SAM stays
frozen; two numbers are learned, the third weight is their complement to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from fvcore.nn import sigmoid_focal_loss
from numpy.typing import NDArray
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR

from hipie.errors import InputError
from hipie.modeling.criterion.losses import dice
from hipie.modeling.sam.predictor import Sam, SamImage
from hipie_fewshot.feature_cache import FeatureCache
from hipie_fewshot.modeling.location_prior import masked_features, most_similar_point
from hipie_fewshot.modeling.method import FewShotMethod, MaskPrediction
from hipie_fewshot.modeling.persam import POSITIVE, mask_to_box, refine_mask
from hipie_fewshot.support_set import Example

SCALES = 3
# Published epsilon of AdamW, alpha and gamma of the focal loss.
ADAM_EPSILON = 1e-4
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 2.0


class FittedExamples(NamedTuple):
    """Quantities fitted to the support examples.

    Attributes:
        target: [C] half the sum of mean and maximum of SAM's features under the masks.
        scale_weights: [3] weights of SAM's masks, of sum 1.
    """

    target: Tensor
    scale_weights: Tensor


class PerSamF(FewShotMethod[SamImage]):
    """Personalisation of SAM with two learned numbers, fitted once for the same examples.

    Args:
        sam: the model.
        steps: optimisation steps; published 1,000.
        learning_rate: initial learning rate, decayed to 0 by half a cosine; published 1e-3.

    Raises:
        ValueError: unless both numbers are positive.
    """

    def __init__(self, sam: Sam, steps: int = 1000, learning_rate: float = 1e-3) -> None:
        if steps < 1 or learning_rate <= 0:
            raise InputError(
                "PerSAM-F needs at least one step and a positive learning rate, got "
                f"{steps} and {learning_rate}"
            )
        sam.require_padded("PerSAM-F")
        self.sam = sam
        self.steps, self.learning_rate = steps, learning_rate
        self.fitted = FeatureCache(self._fit)

    def encode(self, image: NDArray[np.uint8]) -> SamImage:
        """Compute SAM's features of a query image [H, W, 3]."""
        return self.sam.encode(image)

    def predict_encoded(self, query: SamImage, examples: Sequence[Example]) -> MaskPrediction:
        """Segment the examples' object in an encoded query image.

        Three rounds of SAM: the most similar point, with the weighted sum of SAM's three masks;
        the point with that mask and its box; the point with the best resulting mask and its box.
        If a mask is empty, the round before it is the result (the published program fails there).

        Raises:
            ExampleError: if there are no examples.
        """
        target, weights = self.fitted(examples, self.sam.device)
        point = most_similar_point(query, target)
        logits = weighted_mask_sum(weights, _multi_scale_logits(query, point))[None]
        mask, score = upsample_logits(query, logits)[0] > 0, 0.0
        for _ in range(2):
            box = mask_to_box(mask)
            if box is None:
                break
            masks = refine_mask(query, point, logits, box)
            mask, logits = masks.masks[0, 0], masks.low_resolution[:, 0]
            score = float(masks.scores[0, 0].clamp(0, 1))
        return MaskPrediction(mask, score)

    def _fit(self, examples: Sequence[Example]) -> FittedExamples:
        images = [self.sam.encode(example.image) for example in examples]
        features = masked_features(images, examples)
        target = (features.amax(1) + features.mean(1)) / 2
        logits = [
            upsample_logits(image, _multi_scale_logits(image, most_similar_point(image, target)))
            for image in images
        ]
        targets = [torch.from_numpy(example.mask).to(target.device) for example in examples]
        weights = fit_scale_weights(logits, targets, self.steps, self.learning_rate)
        return FittedExamples(target, weights)


@torch.inference_mode(False)
@torch.enable_grad()
def fit_scale_weights(
    logits: Sequence[Tensor], targets: Sequence[Tensor], steps: int, learning_rate: float
) -> Tensor:
    """Fit the weights of SAM's three masks to ground-truth masks.

    Minimises dice and focal loss of the weighted logits by AdamW over two free weights, starting
    from three equal ones.

    Args:
        logits: [3, H, W] of each example.
        targets: [H, W] bool of each example.
        steps: see `PerSamF`.
        learning_rate: see `PerSamF`.

    Returns:
        [3] of sum 1; single weights may lie outside 0..1.
    """
    rows = [scales.detach().clone().float().flatten(1) for scales in logits]
    truths = [target.float().flatten()[None] for target in targets]
    free = torch.full((SCALES - 1,), 1 / SCALES, device=rows[0].device, requires_grad=True)
    optimizer = torch.optim.AdamW([free], lr=learning_rate, eps=ADAM_EPSILON)
    scheduler = CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        weights = _complete_weights(free)
        losses = [
            _dice_focal_loss(weighted_mask_sum(weights, row)[None], truth)
            for row, truth in zip(rows, truths, strict=True)
        ]
        optimizer.zero_grad()
        torch.stack(losses).mean().backward()
        optimizer.step()
        scheduler.step()
    return _complete_weights(free).detach()


def weighted_mask_sum(weights: Tensor, masks: Tensor) -> Tensor:
    """Sum masks [3, ...] with their weights [3]: [...]."""
    return (weights.view(-1, *[1] * (masks.ndim - 1)) * masks).sum(0)


def upsample_logits(image: SamImage, logits: Tensor) -> Tensor:
    """Resize logits [N, h, w] of SAM's grid to the image's size: [N, H, W]."""
    full: Tensor = image.sam.model.postprocess_masks(logits[None], image.input_size, image.size)[0]
    return full


def _multi_scale_logits(image: SamImage, point: np.ndarray) -> Tensor:
    """Predict the logits [3, h, w] of SAM's three masks for a positive point [1, 2]."""
    labels = np.array([[POSITIVE]])
    return image.predict(points=point[None], labels=labels, multimask=True).low_resolution[0]


def _complete_weights(free: Tensor) -> Tensor:
    """Prepend the weight that completes two free ones to a sum of 1."""
    return torch.cat([1 - free.sum(0, keepdim=True), free])


def _dice_focal_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Compute the sum of dice and focal loss of [1, P] logits."""
    focal = sigmoid_focal_loss(logits, target, FOCAL_ALPHA, FOCAL_GAMMA, reduction="mean")
    return dice(logits, target).sum() + focal
